"""Disks that boot: an image with a kernel, boot loaders and a writable partition."""
