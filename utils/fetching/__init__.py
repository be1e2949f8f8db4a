"""Download, verification and unpacking of published data sets."""
