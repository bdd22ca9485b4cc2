"""Images: what they are called, where they lie, how they are made."""
