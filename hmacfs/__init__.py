"""An HMAC file server: signed uploads and downloads, as a WSGI application behind gunicorn."""

__version__ = "1.1.0"
