#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Runs as root: takes from the image what would make two clones of it alike.

set -eu

fail() { printf 'outrider: %s\n' "$*" >&2; exit 1; }

if [ -d /run/systemd/system ]; then
    # Ending it also takes its services out of Consul.
    systemctl stop outrider.service || fail "outrider.service does not stop: systemctl status outrider"
fi

# The folders themselves belong to the package.
for folder in /var/lib/outrider /run/outrider; do
    if [ -d "$folder" ]; then find "$folder" -mindepth 1 -delete; fi
done

# Clones must not share these, as machine-id(5) and systemd's notes on building
# images say. An empty machine-id is filled at the next boot.
if [ "$OUTRIDER_RESET_MACHINE" = true ]; then
    if [ -e /etc/machine-id ]; then : >/etc/machine-id; fi
    if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then rm -f /var/lib/dbus/machine-id; fi
    rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
fi
