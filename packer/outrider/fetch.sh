#!/bin/sh
# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Runs beside Packer: fetches the package and checks it. Nothing else is called
# what OUTRIDER_FETCHED says, so a file of that name is the package.
#
# OUTRIDER_PACKAGE_AUTHORIZATION of the environment that Packer was started with
# is sent as the Authorization header. It is not written anywhere, and it is on
# no command line.

set -eu
umask 077

fail() { printf 'outrider: %s\n' "$*" >&2; exit 1; }

digest() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

if [ -f "$OUTRIDER_FETCHED" ] && [ "$(digest "$OUTRIDER_FETCHED")" = "$OUTRIDER_SHA256" ]; then exit 0; fi

folder=$(dirname "$OUTRIDER_FETCHED")
mkdir -p "$folder" || fail "the folder $folder cannot be made; set outrider_cache to one that you may write to"
file=$(mktemp "$folder/.outrider.XXXXXX")
trap 'rm -f "$file"' EXIT

case $OUTRIDER_PACKAGE in
https://*)
    # A redirect to another host does not get the header. 1 GiB is far beyond any
    # package; ten minutes are, too.
    if [ -n "${OUTRIDER_PACKAGE_AUTHORIZATION:-}" ]; then
        printf 'Authorization: %s\n' "$OUTRIDER_PACKAGE_AUTHORIZATION"
    fi | curl --fail --silent --show-error --location --proto '=https' --max-time 600 --max-filesize 1073741824 \
        --header @- --output "$file" "$OUTRIDER_PACKAGE" ||
        fail "$OUTRIDER_PACKAGE could not be fetched; what curl says is above"
    ;;
*)
    [ -f "$OUTRIDER_PACKAGE" ] || fail "there is no file $OUTRIDER_PACKAGE; relative paths begin where Packer was started ($PWD)"
    cp "$OUTRIDER_PACKAGE" "$file"
    ;;
esac

found=$(digest "$file")
[ "$found" = "$OUTRIDER_SHA256" ] ||
    fail "$OUTRIDER_PACKAGE has the SHA-256 $found, and outrider_package_sha256 is $OUTRIDER_SHA256; it is another package, or somebody changed it"
mv -f "$file" "$OUTRIDER_FETCHED"
trap - EXIT
