# The first start creates the cluster, the user and the database. The cluster gets its name when it is complete.
set -eu
cluster=/var/lib/postgresql/cluster
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
if [ ! -d "$cluster" ]; then
    echo "${POSTGRES_PASSWORD:?}" > /tmp/password
    rm -rf "$cluster.new"
    install --directory --owner postgres --group postgres --mode 0700 "$cluster.new"
    chown postgres /tmp/password
    as_postgres initdb --pgdata "$cluster.new" --username "$POSTGRES_USER" --pwfile /tmp/password \
        --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$cluster.new/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -D "$cluster.new" postgres
    mv "$cluster.new" "$cluster"
fi
install --directory --owner postgres /var/run/postgresql
exec setpriv --reuid postgres --regid postgres --init-groups postgres -D "$cluster" -c "listen_addresses=*"
