"""Each module here is a command of ``manage.py``."""
