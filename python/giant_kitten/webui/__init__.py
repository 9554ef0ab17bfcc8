"""What giant-kitten does inside WebUIs: actions, guidance, the state that the map shows, installing."""
