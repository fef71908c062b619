#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Runs as root on the machine that becomes the image: installs the package and
# places the configuration. Outrider must not start here: it would register the
# machine that builds the image.

set -eu
umask 077

fail() { printf 'outrider: %s\n' "$*" >&2; exit 1; }

package=$OUTRIDER_WORK/outrider.$OUTRIDER_KIND
found=$(sha256sum "$package" | cut -d ' ' -f 1)
[ "$found" = "$OUTRIDER_SHA256" ] || fail "the package was changed on its way: its SHA-256 is $found now"

# A mask in /run is gone at the next boot, whatever happens to this script.
booted=no
if [ -d /run/systemd/system ]; then
    booted=yes
    systemctl mask --runtime --quiet outrider.service
    trap 'systemctl unmask --runtime --quiet outrider.service' EXIT
fi

# What an earlier build of this image left edited stays; ours comes after it.
case $OUTRIDER_KIND in
deb) DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --install "$package" </dev/null ;;
rpm) rpm --upgrade --replacepkgs "$package" </dev/null ;;
esac || fail "the package could not be installed; what the package manager says is above"

if [ "$booted" = yes ]; then
    systemctl unmask --runtime --quiet outrider.service
    trap - EXIT
fi

# Owned by root, so that the agent cannot change what it is told; readable by the
# group alone, because names of hosts are nobody else's business.
while read -r name text; do
    case $name in '#'*) continue ;; esac
    printf '%s' "$text" | base64 -d >"$OUTRIDER_WORK/file"
    install -o root -g outrider -m 0640 "$OUTRIDER_WORK/file" "/etc/outrider.d/$name"
done <"$OUTRIDER_WORK/config"

if [ "$OUTRIDER_ENABLE" = true ]; then
    systemctl enable outrider.service
else
    systemctl disable outrider.service
fi
