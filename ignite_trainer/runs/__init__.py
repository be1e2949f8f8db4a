"""One run: builds its parts, trains, evaluates, and resumes."""
