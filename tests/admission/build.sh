#!/usr/bin/env bash
# Builds an API server for custom resources and an etcd from Debian's packages, into the folder that is given: nothing is
# installed, nothing outside of it is written. Kubernetes' own admission of any CRD (strict fields, types, defaults, CEL),
# without pods, controllers and the core kinds. Needs a Debian machine, 2 GB of disk, 3 to 15 minutes; what is there stays.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
[ -x "$out/apiserver" ] && [ -x "$out/etcd" ] && [ -x "$out/kustomize" ] && exit 0

apt="$out/apt"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$out/root"
: > "$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" > "$apt/sources.list"
options=(-o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent -o APT::Sandbox::User=root)
apt-get "${options[@]}" --quiet update
apt-get "${options[@]}" --quiet --yes --no-install-recommends --download-only install \
    golang-k8s-apiextensions-apiserver-dev golang-1.26-go etcd-server kustomize

# Sources and compiler only: of the rest (a whole base system, as nothing counts as installed) nothing is needed.
for package in "$apt"/cache/archives/{golang-,etcd-server_,kustomize_}*.deb; do
    dpkg-deb --extract "$package" "$out/root"
done
cp "$out/root/usr/bin/etcd" "$out/root/usr/bin/kustomize" "$out"

export GOROOT="$out/root/usr/lib/go-1.26" GOPATH="$out/root/usr/share/gocode" GOCACHE="$out/cache" GO111MODULE=off CGO_ENABLED=0
[ -e "$GOROOT/src" ] && [ -e "$GOROOT/src/fmt" ] || { rm -rf "$GOROOT/src"; ln -s "$out/root/usr/share/go-1.26/src" "$GOROOT/src"; }
[ -e "$GOROOT/pkg/include" ] || { rm -rf "$GOROOT/pkg/include"; ln -s "$out/root/usr/share/go-1.26/pkg/include" "$GOROOT/pkg/include"; }
nice "$GOROOT/bin/go" build -p "$(nproc)" -o "$out/apiserver" k8s.io/apiextensions-apiserver
rm -rf "$out/root" "$out/cache" "$out/apt"
