"""Virtual machines: the specification, the engines, and what this host allows."""
