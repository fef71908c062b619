#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# dpkg passes "configure" and the version that was configured before, rpm the
# number of versions there are now.
set -e

case "$1" in
    configure) packager=deb; if [ -z "$2" ]; then first=yes; else first=no; fi ;;
    abort-*) exit 0 ;;
    1) packager=rpm first=yes ;;
    *) packager=rpm first=no ;;
esac

# own gives a path of the package to whom it is for, unless the administrator
# has decided otherwise.
own() {
    if [ "$packager" = deb ] && dpkg-statoverride --list "$2" >/dev/null 2>&1; then return; fi
    chown -h "$1" "$2"
}
if [ "$first" = yes ]; then
    own root:outrider /etc/outrider.d
    if [ -e /etc/outrider.d/outrider.hcl.example ]; then own root:outrider /etc/outrider.d/outrider.hcl.example; fi
    own outrider:outrider /var/lib/outrider
fi

# Enabled where it is the habit of the system to do so: by Debian always, by
# others as their presets say. An administrator's choice survives upgrades.
if [ "$packager" = deb ] && command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper unmask outrider.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled outrider.service; then
        deb-systemd-helper enable outrider.service >/dev/null || true
    else
        deb-systemd-helper update-state outrider.service >/dev/null || true
    fi
elif [ "$first" = yes ] && command -v systemctl >/dev/null; then
    systemctl preset outrider.service >/dev/null 2>&1 || true
fi

# In an image that is being built nothing runs.
if [ ! -d /run/systemd/system ]; then exit 0; fi
systemctl daemon-reload || true

# may asks the local policy, which image builders use to keep services down.
may() {
    if [ ! -x /usr/sbin/policy-rc.d ]; then return 0; fi
    code=0
    /usr/sbin/policy-rc.d outrider "$1" >/dev/null 2>&1 || code=$?
    case "$code" in 0 | 1 | 104) return 0 ;; esac
    return 1
}

# Nothing here waits for Consul: --no-block.
if systemctl is-active --quiet outrider.service; then
    if ! may restart; then
        echo 'outrider: the local policy forbids restarts; the old version runs on until: systemctl restart outrider' >&2
    else
        code=0
        outrider upgrade || code=$?
        if [ "$code" -eq 0 ]; then
            :
        elif [ "$code" -eq 3 ]; then
            # The running agent tried, and said why not. It serves on with what it
            # has; one that is restarted now would have to get all of it anew.
            echo 'outrider: the old version runs on until that is in order and: outrider upgrade' >&2
        elif outrider validate /etc/outrider.d >/dev/null; then
            systemctl --no-block try-restart outrider.service || true
        else
            echo 'outrider: the old version runs on, because the new one would not start: see "outrider validate /etc/outrider.d", and when that is in order: systemctl restart outrider' >&2
        fi
    fi
elif [ "$packager" = deb ] && systemctl is-enabled --quiet outrider.service && may start; then
    # Skipped by the unit's condition while there is nothing to run.
    systemctl --no-block start outrider.service || true
fi
if [ "$first" = yes ]; then
    set -- /etc/outrider.d/*.hcl
    if [ ! -e "$1" ]; then
        echo 'outrider: nothing runs yet; describe a service in /etc/outrider.d/web.hcl (outrider.hcl.example there shows how), then: systemctl enable --now outrider'
    fi
fi
