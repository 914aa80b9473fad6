#!/usr/bin/env bash
# Tests the recipe of README.md beside it: OpenSSH forwards the socket.
#
#   ssh -N -L LOCAL.sock:REMOTE.sock HOST
#
# The other machine is this one, with an sshd of our own on 127.0.0.1: its port,
# keys and configuration live in a temporary folder. Without an sshd here it
# says so and is content.
set -euo pipefail
cd "$(dirname "$0")/../.."

sshd=$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v sshd) || {
	echo 'no sshd is installed: skipped'
	exit 0
}
for tool in ssh ssh-keygen; do
	command -v "$tool" >/dev/null || {
		echo "no $tool is installed: skipped"
		exit 0
	}
done

work=$(mktemp -d)
made=
stop() {
	local pids
	pids=$(jobs -p)
	if [[ -n $pids ]]; then
		kill $pids 2>/dev/null || true
		wait $pids 2>/dev/null || true
	fi
	rm -rf "$work"
	if [[ -n $made ]]; then rmdir "$made" 2>/dev/null || true; fi
}
trap stop EXIT
mkdir -m 700 "$work/near" "$work/far"

# await FILE PATTERN COUNT waits until COUNT lines of FILE match PATTERN.
await() {
	timeout 30 bash -c 'until [[ $(grep -c -- "$2" "$1") -ge $3 ]]; do sleep 0.05; done' _ "$@" || {
		printf '%s: fewer than %s times "%s"\n' "$1" "$3" "$2"
		tail -n 20 "$work"/*.out
		exit 1
	}
}

echo 'starting an sshd'
ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/user_key"
cp "$work/user_key.pub" "$work/authorized_keys"
if [[ $(id -u) == 0 && ! -d /run/sshd ]]; then
	# Run by root it wants this folder, which a running service would have made.
	mkdir -m 755 /run/sshd
	made=/run/sshd
fi
for try in 1 2 3 4 5; do
	port=$((20000 + RANDOM % 10000))
	cat >"$work/sshd_config" <<EOF
ListenAddress 127.0.0.1
Port $port
HostKey $work/host_key
AuthorizedKeysFile $work/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowStreamLocalForwarding yes
EOF
	"$sshd" -D -e -f "$work/sshd_config" >"$work/sshd.out" 2>&1 &
	daemon=$!
	until grep -q 'Server listening' "$work/sshd.out"; do
		if ! kill -0 "$daemon" 2>/dev/null; then continue 2; fi
		sleep 0.05
	done
	break
done
grep -q 'Server listening' "$work/sshd.out" || {
	cat "$work/sshd.out"
	exit 1
}

forward() {
	ssh -N -F none -p "$port" -i "$work/user_key" \
		-o IdentitiesOnly=yes -o BatchMode=yes \
		-o UserKnownHostsFile="$work/known_hosts" -o StrictHostKeyChecking=accept-new \
		-o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes \
		-L "$work/near/example.sock:$work/far/example.sock" \
		127.0.0.1 >>"$work/ssh.out" 2>&1 &
	tunnel=$!
}

serve() {
	"$work/server" -dir "$work/far" >>"$work/server.out" 2>&1 &
	server=$!
}

go build -o "$work/server" ./example/server
go build -o "$work/client" ./example/client
: >"$work/client.out" >"$work/server.out" >"$work/ssh.out"

echo 'a conversation through ssh'
serve
await "$work/server.out" 'listening' 1
forward
"$work/client" -dir "$work/near" -every 50ms >>"$work/client.out" 2>&1 &
client=$!
await "$work/client.out" 'you said' 3

echo 'the server restarted'
kill -9 "$server"
{ wait "$server"; } 2>/dev/null || true
await "$work/client.out" 'Reconnecting' 1
answers=$(grep -c 'you said' "$work/client.out")
serve
await "$work/client.out" 'you said' $((answers + 3))

echo 'ssh restarted'
kill "$tunnel"
{ wait "$tunnel"; } 2>/dev/null || true
await "$work/client.out" 'Reconnecting' 2
answers=$(grep -c 'you said' "$work/client.out")
forward
await "$work/client.out" 'you said' $((answers + 3))

kill -INT "$client" "$server"
wait "$client" "$server"
echo 'ok'
