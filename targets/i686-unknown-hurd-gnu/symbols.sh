#!/usr/bin/env bash
# symbols.sh GLIBC: writes what stands in the file `symbols`: which symbols the libraries of a GNU C Library have on the Hurd,
# from the lists of symbols in the source GLIBC (an unpacked glibc-2.41). To be made anew for an older one, if a Hurd
# with an older one is to run the agent: the agent wants the newest version of each symbol that its list has.
set -euo pipefail
lists=${1:?the folder of a source of glibc}/sysdeps/mach/hurd/i386
printf '# Symbols of the GNU C Library on the Hurd, made by symbols.sh from %s.\n' "$(basename "$1")"
printf '# A library and a version, and below them names; behind a colon, how many bytes of data it is.\n'
# The names of the libraries as they are asked for, and of the lists.
for names in ld.so.1:ld libc.so.0.3:libc libm.so.6:libm libpthread.so.0.3:libpthread librt.so.1:librt libdl.so.2:libdl \
    libutil.so.1:libutil
do
    library=${names%:*}
    LC_ALL=C sort -s -k1,1V -k2,2 "$lists/${names#*:}.abilist" | awk -v library="$library" '
        function flush() { if (line != "") print line; line = "" }
        $1 != version { flush(); version = $1; print library, version }
        {
            name = $3 == "F" ? $2 : $2 ":" $4
            if (length(line) + length(name) > 126) flush()
            line = line " " name
        }
        END { flush() }'
done
