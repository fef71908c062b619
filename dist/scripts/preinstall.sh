#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Before the files come, so that they can belong to the user they are for. dpkg
# passes a word, rpm the number of versions there will be.
set -e

case "$1" in
    abort-upgrade) exit 0 ;;
esac

# As in /usr/lib/sysusers.d/outrider.conf, which is not there yet.
if ! getent group outrider >/dev/null || ! getent passwd outrider >/dev/null; then
    if command -v systemd-sysusers >/dev/null; then
        echo 'u outrider - "Outrider service mesh sidecar" /var/lib/outrider /usr/sbin/nologin' | systemd-sysusers -
    elif command -v useradd >/dev/null && command -v groupadd >/dev/null; then
        getent group outrider >/dev/null || groupadd --system outrider
        getent passwd outrider >/dev/null || useradd --system --gid outrider --no-create-home \
            --home-dir /var/lib/outrider --shell /usr/sbin/nologin \
            --comment 'Outrider service mesh sidecar' outrider
    else
        echo 'outrider: there is neither systemd-sysusers nor useradd to make the user outrider; make it and its group, then install again' >&2
        exit 1
    fi
fi
