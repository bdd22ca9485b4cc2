"""Save a running machine in a folder, and go on with it later, here or on another computer."""
