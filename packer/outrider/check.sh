#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Runs as root, last: refuses an image that holds a secret of Outrider's or a
# configuration with a mistake, whoever put them there. It names files and never
# shows their lines.

set -eu
umask 077
trap 'rm -rf "$OUTRIDER_WORK"' EXIT

fail() { printf 'outrider: %s\n' "$*" >&2; exit 1; }

secret='(token|secret|secret_?id|password|passwd|authorization|cookie|api[-_]?key)["'\'']?[[:space:]]*[=:]'
pem='-----BEGIN [A-Z ]*PRIVATE KEY'
vault='(^|[^A-Za-z0-9_])(hv[sbr]|s|b|r)\.[A-Za-z0-9_-]{20}'

# Certificates may be there: they are no secret.
found=$(find /etc/outrider.d -type f -exec grep -aliE -e "$secret" -e "$pem" -e "$vault" {} + || true)
[ -z "$found" ] || fail "the image would hold a secret, in: $(echo "$found" | tr '\n' ' '); name a file with token_file = or the like, and put that file on the machine when it boots"

found=$(find /etc/outrider.d \( -name '*token' -o -name '*secret-id' -o -name '*secret_id' -o -name '*.jwt' \) | head -n 5)
[ -z "$found" ] || fail "the image would hold a secret, in: $(echo "$found" | tr '\n' ' '); put that file on the machine when it boots"

# The unit reads its credentials from these, before anybody is asked.
for folder in /etc/credstore /etc/credstore.encrypted; do
    if [ -d "$folder" ] && [ -n "$(find "$folder" -name 'outrider.*' | head -n 1)" ]; then
        fail "the image would hold a secret, in $folder; put it on the machine when it boots"
    fi
done

# A subshell: what stands in for the machine's environment is for the check only.
(
    while read -r name text; do
        case $name in '#'*) continue ;; esac
        value=$(printf '%s' "$text" | base64 -d)
        export "$name=$value"
    done <"$OUTRIDER_WORK/environment"
    exec /usr/bin/outrider validate /etc/outrider.d
) || fail "the configuration has mistakes, see above; a variable that only the machine has gets a stand-in in outrider_sample_environment"
