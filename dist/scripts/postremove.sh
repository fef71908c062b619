#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# dpkg passes a word, rpm the number of versions that stay.
set -e

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi

if [ "$1" = purge ]; then
    # Tokens may lie in any of these places, so nothing is left of them. The user stays:
    # files of it may be elsewhere, in backups too, and a number that is given away
    # again would give them to somebody else.
    rm -rf /var/lib/outrider /var/log/outrider /etc/outrider.d
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge outrider.service >/dev/null || true
    fi
    # Who has no such program has the link only where "systemctl enable" put it.
    rm -f /etc/systemd/system/multi-user.target.wants/outrider.service
fi
