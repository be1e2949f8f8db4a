"""Programs to try a model with: search in a folder, a page for the browser, a notebook."""
