#!/usr/bin/env bash
# In the virtual machine, as root, from the second disk: run the tests in the ways that people come to them.
#
#   session  an ordinary user who is logged in: the product asks systemd for a scope of its own
#   scope    the same user in a scope that was delegated, as one starts Jupyter in: here a test may make groups itself
#   root     root
#
# What each way is to run stands in NAME.arguments; its log, exit status and JUnit's XML come back in out/.
set -uo pipefail
here=/mnt
bound_s=3000  # for one of the ways
slower="$(<"$here/slower")"

# As whoever calls, in an empty directory: nothing there may stand in for the package. A skip is a failure, as on CI.
if [[ "$#" == 1 ]]; then
    mapfile -d '' -t arguments <"$here/$1.arguments"
    cd "$(mktemp -d)" || exit 1
    export CI=true FLYTE_NOTEBOOK_TEST_SLOWER="$slower"
    printf '%s, Linux %s, uid %s in %s\n' "$1" "$(uname -r)" "$(id -u)" "$(tail -n 1 /proc/self/cgroup)"
    exec timeout --kill-after=10 "$bound_s" /opt/tests/bin/pytest -c "$here/pyproject.toml" --rootdir="$here" \
        -p no:cacheprovider --timeout="$((120 * slower))" --junitxml="$here/out/$1/junit.xml" "${arguments[@]}"
fi

way() {
    local name="$1"
    shift
    [[ -f "$here/$name.arguments" ]] || return
    install -d -o learner "$here/out/$name"
    "$@" bash "$here/guest.sh" "$name" </dev/null 2>&1 | tee "$here/out/$name/log"
    echo "${PIPESTATUS[0]}" >"$here/out/$name/status"
}
# A service with a login of its own, as for a user who came by ssh: XDG_RUNTIME_DIR is set, and nothing is delegated.
login=(systemd-run --quiet --wait --pipe --collect --uid=learner --property=PAMName=login)

/opt/tests/bin/pip install --quiet --no-deps --no-index "$here"/*.whl
way session "${login[@]}"
way scope "${login[@]}" systemd-run --user --scope --quiet --collect --property=Delegate=yes
way root env HOME=/root
