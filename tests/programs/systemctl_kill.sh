#!/bin/sh
# In the place of systemctl, for what logrotate asks of it: the service is the process SERVER_PID.
[ "$*" = "kill --kill-whom=main --signal=SIGUSR1 hmac-file-server.service" ] || exit 1
exec kill -USR1 "$SERVER_PID"
