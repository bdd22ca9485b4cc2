"""Images from and to registries: OCI's distribution specification, and Docker's older form."""
