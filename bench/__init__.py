"""Measures this server against nginx, a Go server and a plain Flask view: ``make bench`` or ``python -m bench``."""
