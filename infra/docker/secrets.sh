#!/bin/sh
# Makes the passwords and keys that docker-compose.yml reads, a file each in ./secrets; those that are there stay.
#
# Containers read them as users of their own, so every file is open to read, and their folder to its owner alone.
set -eu
cd "$(dirname "$0")/../.."
umask 077
mkdir -p secrets

keep() { # NAME CONTENT: in one step, so that what was cut short leaves no half a file
    if [ ! -e "secrets/$1" ]; then
        rm -f secrets/.new
        printf '%s' "$2" > secrets/.new
        chmod 444 secrets/.new
        mv secrets/.new "secrets/$1"
        echo "made secrets/$1"
    fi
}

# In hexadecimal, which stands in addresses, configurations and JSON as it is.
password=$(openssl rand -hex 24)
keep postgres_password "$password"
keep telltale_database_url "postgresql+psycopg://telltale:$(cat secrets/postgres_password)@postgres:5432/telltale"

password=$(openssl rand -hex 24)
keep valkey.conf "requirepass $password
"
keep telltale_redis_url "redis://:$(sed -n 's/^requirepass //p' secrets/valkey.conf)@valkey:6379/0"

password=$(openssl rand -hex 24)
keep telltale_s3_secret_key "$password"
credentials="{\"accessKey\": \"telltale\", \"secretKey\": \"$(cat secrets/telltale_s3_secret_key)\"}"
keep seaweedfs.json "{\"identities\": [{\"name\": \"telltale\", \"credentials\": [$credentials], \"actions\": [\"Admin\"]}]}
"

# Without this one, the secrets in the database are lost: keep a copy, and not beside the database's (docs/secrets.md).
key=$(openssl rand -base64 32)
keep telltale_secret_keys "$key"

password=$(openssl rand -hex 24)
keep grafana_password "$password"

# Empty: no mail is sent. smtp://user:password@host:587 goes here, and TELLTALE_MAIL_FROM=… into .env.
keep telltale_smtp_url ""
