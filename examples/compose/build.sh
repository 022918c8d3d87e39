#!/usr/bin/env bash
# Builds what the image is made of: the dkv binary, which needs no other file, and the
# directory that its data is in.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p build/data
CGO_ENABLED=0 GOOS=linux go -C ../dkv build -ldflags='-s -w' -o "$PWD/build/dkv" .
