"""Sets of samples in tar files, as the library webdataset writes and reads them, with a manifest.

`python -m utils.shards make` writes them from any data set, `index` makes the manifest of those that are
there, `verify` compares them with it; `utils.datasets.Shards` is the data set.
"""
