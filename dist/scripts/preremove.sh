#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# dpkg passes a word, rpm the number of versions that stay. An upgrade stops
# nothing: the new version takes over from the running one.
set -e

case "$1" in
    remove | 0) ;;
    *) exit 0 ;;
esac

# A stop drains, and takes the services of this host out of Consul.
if [ -d /run/systemd/system ]; then
    systemctl stop outrider.service || true
fi
if [ "$1" = 0 ] && command -v systemctl >/dev/null; then
    systemctl disable outrider.service >/dev/null 2>&1 || true
fi
