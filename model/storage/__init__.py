"""Files and folders: where downloads and caches are, atomic writes, and listing of folders."""
