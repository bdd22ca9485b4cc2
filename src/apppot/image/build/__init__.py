"""Build images from Containerfiles: plan, cache, and run each step in a machine of its own."""
