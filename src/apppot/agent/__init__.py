"""The host's side of the agent protocol (docs/reference/protocol.md)."""
