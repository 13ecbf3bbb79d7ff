#!/usr/bin/env bash
# A token and TLS for a Ray cluster of own hosts: cluster/local/secure.sh DIRECTORY ADDRESS...
# DIRECTORY then has token, ca.crt, node.crt, node.key (for all the addresses) and `env`, to be sourced (bash, zsh) wherever Ray is started or
# asked, from a copy of DIRECTORY anywhere. ca.key stays here. What is there is kept: remove it to make all of it anew.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 DIRECTORY ADDRESS..." >&2; exit 2; }
umask 077
directory=$(mkdir -p "$1" && cd "$1" && pwd); shift
cd "$directory"
[ -e token ] || openssl rand -hex 32 > token
if [ ! -e node.crt ]; then
    names=$(printf 'IP:%s,' "$@" 127.0.0.1)DNS:localhost
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=raysft-ca -keyout ca.key -out ca.crt 2> /dev/null
    openssl req -newkey rsa:2048 -nodes -subj /CN=raysft-node -keyout node.key -out node.csr 2> /dev/null
    openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out node.crt \
        -extfile <(echo "subjectAltName=$names") 2> /dev/null
    rm node.csr
fi
cat > env <<'EOF'
secure=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secure/token
export RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=$secure/node.crt RAY_TLS_SERVER_KEY=$secure/node.key RAY_TLS_CA_CERT=$secure/ca.crt
EOF
echo "source $directory/env"
