#!/bin/sh
# In the place of SLEEP, another program: writes down in PAUSES how long it should have taken, and is short.
echo "$1" >>"$PAUSES"
exec "$SLEEP" 0.1
