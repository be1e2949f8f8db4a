"""One run: its parts are built, carried out, evaluated, resumed."""
