"""gunicorn's settings, made from the configuration file that ``HMACFS_CONFIG`` names.

``hmac-file-server -config FILE`` starts the very same server without this file.
"""

from hmacfs.server.settings import gunicorn_settings

globals().update(gunicorn_settings())
