"""Data sets in webdataset's tar files, each set with a manifest.

`python -m utils.shards make` writes them from any data set, `index` makes a manifest for existing ones, and
`verify` compares them with theirs; `utils.datasets.Shards` reads them.
"""
