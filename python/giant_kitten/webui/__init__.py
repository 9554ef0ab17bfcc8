"""giant-kitten inside WebUIs: actions, generations, and installing the extensions."""
