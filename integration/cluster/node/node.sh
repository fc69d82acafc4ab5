#!/bin/sh
# Inside new mount, PID, UTS and network namespaces: makes of them a node whose traces vanish with it, then becomes its
# first process. Arguments: the target folder, the folder of what was built, the program of the first process, the run
# folder, the node's name.
set -eu
target=$1 tools=$2 init=$3 run=$4 name=$5

hostname "$name"

# What components write outside the run folder (sockets of shims, lists of addresses, logs) is kept in memory, here only.
exec 8<"$tools" 9<"$target"
for folder in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 mesh-cluster "$folder"
done
if [ ! -d "$run" ]; then # the repository lies in one of them
    mkdir -p "$target"
    mount --no-canonicalize --rbind /proc/self/fd/9 "$target"
fi
if [ ! -x "$init" ]; then # what was built lies in one of them
    mkdir -p "$tools"
    mount --no-canonicalize --rbind /proc/self/fd/8 "$tools"
fi
exec 8<&- 9<&-

# Settings of the whole machine that the kubelet insists on: it reads what it wants, and changes nothing.
mkdir -p /run/sysctl
while read -r setting value; do
    [ -e "/proc/sys/$setting" ] || continue
    file=/run/sysctl/$(echo "$setting" | tr / .)
    echo "$value" >"$file"
    mount --bind "$file" "/proc/sys/$setting"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

# Settings of this network namespace.
echo 1 >/proc/sys/net/ipv4/ip_forward
if [ -d /proc/sys/net/ipv6 ]; then
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
fi
for family in iptables ip6tables; do
    setting=/proc/sys/net/bridge/bridge-nf-call-$family
    [ ! -e "$setting" ] || echo 1 >"$setting"
done

# Mounts of the kubelet must reach the containers.
mount --make-rshared /
exec "$init" "$run"
