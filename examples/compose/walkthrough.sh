#!/usr/bin/env bash
# Goes through what servers do, alone and as a cluster, and checks each word of it. The
# servers are containers if there is a Docker engine and Compose, and processes if not,
# or if --processes says so. Whatever is started is removed in the end.
set -euo pipefail
cd "$(dirname "$0")"
unset "${!DKV_@}" # they would be flags

shards='100=lstore,200=dstore,300=lockmgr(dstore)'
project=dkv-walkthrough-$$
compose_command=()      # empty for processes
compose=()              # the command for the file in use
files=()                # the compose files that were used
servers=()              # the names of those that were started
declare -A pids=()      # of processes, by name
declare -A endpoints=() # of processes, by name
members=                # --cluster-members of processes
ports=()

say() { printf '%s\n' "$*"; }

# bounded runs a command for some seconds at most.
bounded() { timeout -k 5 "$@"; }

# quietly is bounded, and shows what a command prints only if it fails.
quietly() { bounded "$@" >"$work/out" 2>&1 </dev/null || fail "$(quote "${@:2}"): $(cat "$work/out")"; }

quote() { printf '%q ' "$@"; }

fail() {
	say "FAILED $*"
	show_logs || true
	exit 1
} >&2

show_logs() {
	local name
	for name in "${servers[@]}"; do
		say "-- the log of $name:"
		if [ ${#compose[@]} -gt 0 ]; then
			bounded 20 "${compose[@]}" logs --no-color --tail=20 "$name"
		else
			tail -n 20 "$work/$name.log"
		fi
	done
}

# clean_up removes everything, and nothing that it has not made.
clean_up() {
	local code=$? file pid
	trap '' INT TERM HUP
	set +e
	for pid in "${pids[@]}"; do
		end "$pid"
	done
	for file in "${files[@]}"; do
		use "$file"
		bounded 60 "${compose[@]}" down --volumes --remove-orphans --timeout=1 >"$work/out" 2>&1 || {
			cat "$work/out"
			code=1
		} >&2
	done
	if [ ${#files[@]} -gt 0 ] && ! bounded 30 docker image rm --force "$DKV_IMAGE" >"$work/out" 2>&1; then
		cat "$work/out" >&2
		code=1
	fi
	rm -rf "$work"
	exit "$code"
}

# end ends a process at once. What the shell says about that is for nobody.
end() {
	{
		kill -KILL "$1"
		wait "$1"
	} 2>/dev/null || true
}

# choose_ports finds ports that nobody listens on, below those that the system gives to
# whoever asks for none in particular.
choose_ports() {
	local port
	while [ ${#ports[@]} -lt "$1" ]; do
		port=$((20000 + RANDOM % 12000))
		if [[ " ${ports[*]} " != *" $port "* ]] && ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			ports+=("$port")
		fi
	done
}

# use has compose be about a file, each with a project of its own.
use() { compose=("${compose_command[@]}" --project-name "$project-$1" --file "compose-$1.yml"); }

# up starts servers, all at once.
up() { # FILE NAME...
	local name
	servers=("${@:2}")
	if [ ${#compose_command[@]} -gt 0 ]; then
		files+=("$1")
		use "$1"
		if [ ${#files[@]} -eq 1 ]; then
			# A layer that it shared with another build could be removed meanwhile, by
			# whoever has made that.
			quietly 120 "${compose[@]}" build --no-cache "$2"
		fi
		quietly 60 "${compose[@]}" up --detach
		return
	fi
	for name in "${servers[@]}"; do
		start "$name"
	done
}

# down removes the servers, so that there is room for others.
down() {
	if [ ${#compose[@]} -gt 0 ]; then
		quietly 60 "${compose[@]}" down --volumes
	fi
}

start() { # NAME
	if [ ${#compose[@]} -gt 0 ]; then
		quietly 60 "${compose[@]}" start "$1"
		return
	fi
	local flags=(--shards="$shards" --data-dir="$work/$1" --transport-endpoint="${endpoints[$1]}")
	if [ -n "$members" ]; then
		flags+=(--replica-id="$1" --cluster-members="$members")
	fi
	build/dkv serve "${flags[@]}" >>"$work/$1.log" 2>&1 </dev/null &
	pids[$1]=$!
}

# crash ends a server at once, with no time to put anything in order.
crash() { # NAME
	if [ ${#compose[@]} -gt 0 ]; then
		quietly 60 "${compose[@]}" kill "$1"
	else
		end "${pids[$1]}"
		unset "pids[$1]"
	fi
	say "      $1 is killed"
}

# stop stops a server in good order.
stop() { # NAME
	local code=0 i
	if [ ${#compose[@]} -gt 0 ]; then
		quietly 60 "${compose[@]}" stop "$1"
		code=$(inspect "$1" '{{.State.ExitCode}}')
	else
		kill -TERM "${pids[$1]}"
		for ((i = 0; i < 150; i++)); do
			kill -0 "${pids[$1]}" 2>/dev/null || break
			sleep 0.1
		done
		[ "$i" -lt 150 ] || fail "$1 does not stop"
		wait "${pids[$1]}" || code=$?
		unset "pids[$1]"
	fi
	[ "$code" = 0 ] || fail "$1 stops: exit code $code"
	say "ok    $1 stops: exit code 0"
}

# inspect tells of a server's container.
inspect() { # NAME FORMAT
	local id
	id=$(bounded 20 "${compose[@]}" ps --all --quiet "$1" 2>"$work/err") || fail "compose ps: $(cat "$work/err")"
	bounded 20 docker inspect --format "$2" "$id"
}

# expect_healthy waits until Docker has seen that a server is well.
expect_healthy() { # NAME
	local i health=
	[ ${#compose[@]} -gt 0 ] || return 0
	for ((i = 0; i < 60; i++)); do
		health=$(inspect "$1" '{{.State.Health.Status}}')
		if [ "$health" = healthy ]; then
			say "ok    $1 is healthy"
			return
		fi
		sleep 0.5
	done
	fail "$1 is $health"
}

# expect has the client print just these words, and tell yes or no by its exit code. It
# waits for elections.
expect() { # WORDS COMMAND...
	local words=$1 code=0 want=0
	shift
	case $words in *=false) want=1 ;; esac
	got=$(bounded 40 build/dkv "$@" --timeout=25 2>"$work/err" </dev/null) || code=$?
	# shellcheck disable=SC2053 # the words are a pattern
	if [[ $got != $words || $code != "$want" ]]; then
		fail "dkv $*: $got, exit code $code, not $words, $want; $(cat "$work/err")"
	fi
	say "ok    dkv $*: $got"
}

# acquire has a lock be acquired, and sets owner.
acquire() {
	expect 'acquired=true, ownerId=*' lock acquire "$@"
	owner=${got#*ownerId=}
	[[ $owner =~ ^[0-9a-f]+-[0-9]+$ ]] || fail "ownerId=$owner"
}

walk_single() {
	local at=127.0.0.1:${ports[0]}
	endpoints=([dkv]=$at)
	members=
	up single-node dkv

	expect 'set=true' kv set --shard=100 --endpoints="$at" foo bar
	expect 'found=true' kv has --shard=100 --endpoints="$at" foo
	expect 'found=false' kv has --shard=200 --endpoints="$at" foo
	expect 'set=true' kv set --shard=200 --endpoints="$at" foo durable
	acquire --shard=300 --endpoints="$at" --ttl=0 foo
	expect_healthy dkv

	stop dkv
	start dkv
	expect 'found=true, value=durable' kv get --shard=200 --endpoints="$at" foo
	expect 'acquired=false' lock acquire --shard=300 --endpoints="$at" foo
	expect 'released=true' lock release --shard=300 --endpoints="$at" foo "$owner"
	expect 'found=false' kv has --shard=100 --endpoints="$at" foo

	crash dkv
	start dkv
	expect 'found=true, value=durable' kv get --shard=200 --endpoints="$at" foo
	stop dkv
	down
}

walk_multi() {
	local a=127.0.0.1:${ports[0]} b=127.0.0.1:${ports[1]} c=127.0.0.1:${ports[2]} at
	endpoints=([node-1]=$a [node-2]=$b [node-3]=$c)
	members=node-1=127.0.0.1:${ports[3]},node-2=127.0.0.1:${ports[4]},node-3=127.0.0.1:${ports[5]}
	up multi-node node-1 node-2 node-3

	# A local shard is of one server.
	expect 'set=true' kv set --shard=100 --endpoints="$a" foo bar
	expect 'found=true' kv has --shard=100 --endpoints="$a" foo
	expect 'found=false' kv has --shard=100 --endpoints="$b" foo
	expect 'found=false' kv has --shard=100 --endpoints="$c" foo

	# A replicated shard is of all.
	expect 'set=true' kv set --shard=200 --transport-endpoints="$a" foo bar
	for at in "$a" "$b" "$c"; do
		expect 'found=true, value=bar' kv get --shard=200 --transport-endpoints="$at" foo
	done
	expect 'set=true' kv set --shard=200 --transport-endpoints="$a,$b,$c" foo bar2
	for at in "$a" "$b" "$c"; do
		expect 'found=true' kv has --shard=200 --transport-endpoints="$at" foo
		expect 'found=true, value=bar2' kv get --shard=200 --transport-endpoints="$at" foo
	done

	# A lock is held in all of the cluster.
	acquire --shard=300 --transport-endpoints="$a" foo
	for at in "$a" "$b" "$c"; do
		expect 'acquired=false' lock acquire --shard=300 --transport-endpoints="$at" foo
	done
	expect 'released=true' lock release --shard=300 --transport-endpoints="$a" foo "$owner"
	expect 'released=false' lock release --shard=300 --transport-endpoints="$b" foo "$owner"
	acquire --shard=300 --transport-endpoints="$a" --ttl=0 foo
	for at in node-1 node-2 node-3; do
		expect_healthy "$at"
	done

	# Two of three go on. What was locked by way of the third still is.
	crash node-1
	expect 'found=true, value=bar2' kv get --shard=200 --endpoints="$a,$b,$c" foo
	expect 'found=true, value=bar2' kv get --shard=200 --endpoints="$c" foo
	expect 'set=true' kv set --shard=200 --endpoints="$b" foo bar3
	expect 'acquired=false' lock acquire --shard=300 --endpoints="$b" foo
	expect 'released=true' lock release --shard=300 --endpoints="$c" foo "$owner"

	# The third catches up. Its local shard was in its memory.
	start node-1
	expect 'found=true, value=bar3' kv get --shard=200 --endpoints="$a" foo
	expect 'found=true, value=bar3' kv get --stale --shard=200 --endpoints="$a" foo
	expect 'found=false' kv has --shard=100 --endpoints="$a" foo

	# Now it is needed.
	crash node-2
	expect 'set=true' kv set --shard=200 --endpoints="$a" foo bar4
	expect 'found=true, value=bar4' kv get --shard=200 --endpoints="$c" foo
	start node-2
	expect 'found=true, value=bar4' kv get --shard=200 --endpoints="$b" foo
	for at in node-1 node-2 node-3; do
		stop "$at"
	done
	down
}

case $#:${1-} in
0:)
	if ! bounded 20 docker info >/dev/null 2>&1; then
		why='there is no Docker engine'
	elif bounded 20 docker compose version >/dev/null 2>&1; then
		compose_command=(docker compose)
	elif bounded 20 docker-compose version >/dev/null 2>&1; then
		compose_command=(docker-compose)
	else
		why='there is no Docker Compose'
	fi
	;;
1:--processes) why='--processes' ;;
*)
	say "usage: $0 [--processes]" >&2
	exit 2
	;;
esac

work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ ${#compose_command[@]} -gt 0 ]; then
	say "The servers are containers, by ${compose_command[*]}."
else
	say "The servers are processes: $why."
fi
quietly 600 ./build.sh
choose_ports 6
export DKV_IMAGE=$project DKV_PORT_1=${ports[0]} DKV_PORT_2=${ports[1]} DKV_PORT_3=${ports[2]}
say 'One server:'
walk_single
say 'Three servers:'
walk_multi
say "All as it should be, in $SECONDS s."
