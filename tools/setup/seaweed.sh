# One real S3 server for all test processes: SeaweedFS on free ports of 127.0.0.1. Sourced after
# common.sh. Without it every test process that needs one starts its own.

# start_seaweed DIRECTORY: starts it with its data there, says in CAPY_TEST_S3_* where it is.
start_seaweed() {
    local directory=$1 ports port_flags arguments tries
    port_flags=(s3.port filer.port master.port master.port.grpc volume.port volume.port.grpc
        admin.port admin.port.grpc filer.port.grpc s3.port.grpc)
    mapfile -t ports < <(python3 - "${#port_flags[@]}" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held), sep="\n")
PYTHON
    )
    arguments=(-ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$directory/data" -bucket=capy-test
        -s3.config="$directory/s3.json" -filer.localSocket="$directory/filer.sock"
        -s3.localSocket="$directory/s3.sock" -webdav=false -admin.ui=false -master.telemetry=false
        -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false)
    for port in "${!port_flags[@]}"; do arguments+=("-${port_flags[port]}=${ports[port]}"); done
    mkdir -p "$directory/data"
    cat >"$directory/s3.json" <<'JSON'
{"identities": [{"name": "capy", "credentials": [{"accessKey": "capy", "secretKey": "capy-secret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
    # Limits on its collector: a test server needs little, and would take more than 1 GiB.
    GOMEMLIMIT=400MiB GOGC=50 "$CAPY_TEST_WEED" mini "${arguments[@]}" \
        >"$directory/log" 2>&1 </dev/null &
    seaweed_pid=$!
    for tries in $(seq 600); do
        if curl -sf -o /dev/null "http://127.0.0.1:${ports[1]}/buckets/capy-test/"; then
            export CAPY_TEST_S3_ENDPOINT="http://127.0.0.1:${ports[0]}" CAPY_TEST_S3_BUCKET=capy-test
            export CAPY_TEST_S3_ACCESS_KEY_ID=capy CAPY_TEST_S3_SECRET_ACCESS_KEY=capy-secret
            return
        fi
        kill -0 "$seaweed_pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 30 "$directory/log" >&2
    die "SeaweedFS did not start"
}

# stop_seaweed: by its own process id; it takes some seconds to put its data down.
stop_seaweed() {
    [ -n "${seaweed_pid:-}" ] || return 0
    kill -TERM "$seaweed_pid" 2>/dev/null || true
    wait "$seaweed_pid" 2>/dev/null || true
    seaweed_pid=
}
