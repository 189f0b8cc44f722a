-- Prosody: three ways to use hmac-file-server. Keep one of the Components, with your host names and the Secret of
-- hmac-file-server's config.toml, as /etc/prosody/conf.d/upload.cfg.lua, and restart Prosody.
--
-- The base URL ends with the UploadSubDir and a slash. Sizes are in bytes and at most the UploadMaxSize; Prosody's own
-- limits are much lower where they are left out.
--
-- Clients of example.org find a Component below that name by themselves, and it needs neither a DNS entry nor a
-- certificate. For other hosts name it in their VirtualHost section: disco_items = { { "upload.example.org" } }

-- 1. mod_http_upload_external (package prosody-modules), the usual way. The type of a file is not signed.
Component "upload.example.org" "http_upload_external"
    http_upload_external_base_url = "https://files.example.org/upload/"
    http_upload_external_secret = "put the Secret here"
    http_upload_external_file_size_limit = 1073741824

-- 2. The same with its second protocol, which signs the type too.
Component "upload2.example.org" "http_upload_external"
    http_upload_external_base_url = "https://files.example.org/upload/"
    http_upload_external_secret = "put the Secret here"
    http_upload_external_protocol = "v2"
    http_upload_external_file_size_limit = 1073741824

-- 3. Prosody's own mod_http_file_share with an external store (Prosody 0.12 and newer, no further package). A client
--    has ten minutes to begin its upload (Prosody 0.12: five), since a slot's token is valid for so long, and each user
--    a quota for 24 hours.
--    Don't set http_file_share_global_quota: Prosody adds up what it gave slots for, and never hears that a file was
--    deleted here, so the sum only grows, and one day no upload is allowed any more. UploadMaxSize and MinFreeSpace of
--    hmac-file-server bound the space instead.
--    http_file_share_expires_after (one week if it is left out) only puts the time into the token, as "expires":
--    Prosody itself deletes nothing from an external store, and this server keeps files until you delete them.
Component "share.example.org" "http_file_share"
    http_file_share_base_url = "https://files.example.org/upload/"
    http_file_share_secret = "put the Secret here"
    http_file_share_size_limit = 1073741824
    http_file_share_daily_quota = 10737418240
