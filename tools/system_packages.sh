#!/bin/sh
# Debian packages that drawing without a screen needs (MuJoCo, dm_control, MiniWorld). Installs what is missing when run as root;
# otherwise it only says what to do. Never fails: everything but pictures of simulators works without them.
packages="libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libglu1-mesa"
missing=""
if ! command -v dpkg-query >/dev/null 2>&1; then echo "no Debian packages here: for pictures of simulators install EGL and Mesa (Debian: $packages)"; exit 0; fi
for p in $packages; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
hint="pictures of simulators need: apt-get install$missing"
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then echo "$hint (as root)"; exit 0; fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get install -qq -y --no-install-recommends $missing || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; }; } >/dev/null 2>&1 \
  && echo "installed$missing" || echo "$hint (the attempt failed)"
exit 0
