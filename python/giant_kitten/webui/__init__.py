"""What giant-kitten does inside WebUIs, whichever they are: actions, guidance, the state that the map shows, installing."""
