#!/bin/sh
# Runs a command in the network namespace of a rig that is up: enter COMMAND [ARGUMENT ...]
for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/net" 2>/dev/null)" = "@NAMESPACE@" ]; then
        export PATH="$PATH:@KUBECTL_DIR@"
        exec nsenter --user --preserve-credentials --net --target "${process#/proc/}" -- "$@"
    fi
done
echo "the rig is not up any more" >&2
exit 1
