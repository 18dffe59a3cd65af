SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Built by "make controlplane", which honours a KUBEBUILDER_ASSETS from outside.
K8S := $(CURDIR)/bin/k8s
# The OLM bundle's version, its image, and the release that it upgrades (appisolation.v0.0.9), if any.
VERSION = 0.1.0
IMG = appisolation:v$(VERSION)
REPLACES =
# Older minors of Kubernetes that are tested too, each with a go.mod in hack/controlplane.
MINORS = 1.34 1.35 1.36
# Every module but those that pin the older minors, and those of them that have code of ours.
MODULES = $(patsubst %/,%,$(dir $(wildcard go.mod test/*/go.mod hack/*/go.mod)))
CODE = $(filter-out hack/%,$(MODULES)) hack/image
TOOL := go tool -modfile=$(CURDIR)/hack/tools/go.mod
# The race detector needs cgo, and so a C compiler. One package at a time: several start a control plane, and no cached
# result: much of what they test is outside Go's sight. Vet is the linters' part, so that nothing is vetted twice.
RACE = $(if $(shell command -v "$$(go env CC)"),-race)
CGO = $(if $(RACE),CGO_ENABLED=1)
GOTEST = $(CGO) go test $(RACE) -exec 'env CGO_ENABLED=0' -p 1 -count=1 -timeout 20m
# All else is compiled in one way, the image's, so that what is common is compiled once.
export CGO_ENABLED = 0
export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath -vet=off)
# With "-p 1" only one thing would be compiled at a time, so all is compiled before.
COMPILE = $(CGO) go list $(RACE) -export -deps -test

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: controlplane build ## Show the operator at work on a control plane of its own (KEEP=1 leaves it up)
	KUBEBUILDER_ASSETS=$(K8S) go -C test/e2e run ./demo

.PHONY: test
test: controlplane olm ## Run all tests
	$(COMPILE) ./... >/dev/null
	KUBEBUILDER_ASSETS=$(K8S) $(GOTEST) ./...
	cd test/e2e && $(COMPILE) ./... >/dev/null
	cd test/e2e && KUBEBUILDER_ASSETS=$(K8S) $(GOTEST) $$(go list ./... | grep -vE '/(e2e|judged|node)$$')
	go -C hack/image test -count=1 .
	KUBEBUILDER_ASSETS=$(K8S) go -C test/argocd test -count=1 . # most of it is not ours: too much to compile for the race detector
	KUBEBUILDER_ASSETS=$(K8S) go -C test/olm test -count=1 -timeout 20m .
	KUBEBUILDER_ASSETS=$(K8S) go -C test/e2e test -count=1 -v ./judged | grep -vE '^(=== | +--- PASS)' # millions of verdicts: too many for the race detector
	@$(MAKE) --no-print-directory e2e

# Once with client-go's detector of writes into the cache, and once with the race detector, in the operator.
SEEDS = 1
FAULTSTIME = $(shell echo $$((60 + 45 * $(SEEDS))))m
.PHONY: faults
faults: controlplane ## Break what the operator stands on, at length (an hour and a half; SEEDS=3 for more)
	KUBE_CACHE_MUTATION_DETECTOR=true KUBEBUILDER_ASSETS=$(K8S) go test -count=1 -timeout $(FAULTSTIME) -v ./test/faults -args -faults.full -faults.seeds $(SEEDS)
	KUBEBUILDER_ASSETS=$(K8S) go test -count=1 -timeout $(FAULTSTIME) -v ./test/faults -args -faults.full -faults.seeds $(SEEDS) -faults.race

# An input that fails is put into testdata/fuzz of its package, where every "make test" tries it again.
FUZZTIME = 10m
FUZZ = test -run '^$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 20x
.PHONY: fuzz
fuzz: ## Fuzz declarations, commands and statuses, one after another (FUZZTIME=1h)
	go -C test/e2e $(FUZZ) -fuzz FuzzDeclaration ./judged
	go $(FUZZ) -fuzz FuzzCommands ./controllers/cli
	go $(FUZZ) -fuzz FuzzStatus ./controllers

# Debian's packages, each with a program of it, are installed if need be; what is missing all the same is said.
.PHONY: e2e
e2e: controlplane ## Run the tests with real packets, and those on a real node (as root)
	@if [[ $$(id -u) != 0 ]]; then \
		echo 'SKIPPED: the tests with real packets make network namespaces, which takes root: run "sudo make e2e", or see docs/testing.md'; \
		[[ $${CI:-} != true ]]; exit; \
	fi; \
	missing=(); \
	for package in iptables:/usr/sbin/iptables containerd:/usr/bin/containerd runc:/usr/sbin/runc containernetworking-plugins:/usr/lib/cni/ptp; do \
		[[ -x $${package#*:} ]] || command -v $$(basename $${package#*:}) >/dev/null || missing+=($${package%:*}); \
	done; \
	if [[ $${#missing[@]} != 0 ]]; then apt-get update && apt-get install -y --no-install-recommends "$${missing[@]}" || echo "not installed: $${missing[*]}"; fi; \
	KUBEBUILDER_ASSETS=$(K8S) go -C test/e2e test -count=1 -timeout 15m .; \
	hack/controlplane/build $(K8S) node; \
	KUBEBUILDER_ASSETS=$(K8S) go -C test/e2e test -count=1 -timeout 10m -v ./node

# Two hours on two cores, the last of which is the churn; nothing else should run meanwhile.
.PHONY: bench
bench: controlplane ## Run all benchmarks, and write docs/benchmarks.md
	go test -run '^$$' -bench . -benchmem ./controllers/...
	KUBEBUILDER_ASSETS=$(K8S) go -C test/integration test -run '^$$' -bench . -benchtime 1x -timeout 20m .
	KUBEBUILDER_ASSETS=$(K8S) go -C test/e2e test -run '^$$' -bench . -benchtime 15x -timeout 15m .
	KUBEBUILDER_ASSETS=$(K8S) go run ./test/bench -page docs/benchmarks.md

.PHONY: lint
lint: ## Run the linters
	@for module in $(CODE); do \
		echo "golangci-lint in $$module"; \
		(cd $$module && $(TOOL) golangci-lint run ./...); \
	done
	go tool -modfile=hack/actionlint/go.mod actionlint docs/examples/*.yaml .github/workflows/*.yaml

.PHONY: generate
generate: ## Write what is generated from the API types and the markers in the controllers
	$(TOOL) controller-gen paths=./api/... paths=./controllers/... object \
		crd output:crd:dir=config/crd/bases \
		rbac:roleName=appisolation-manager output:rbac:dir=config/rbac
	go run ./hack/schemas config/crd/bases config/crd/schemas
	go run ./hack/chart config config/helm/appisolation
	go run ./hack/metrics docs/metrics.md
	$(TOOL) crd-ref-docs --log-level=ERROR --source-path=api --config=hack/apidocs/config.yaml \
		--renderer=markdown --templates-dir=hack/apidocs/templates --output-path=docs/api.md

# Its two warnings of removed APIs are of rights, which name no version: events and EndpointSlices are still there.
.PHONY: bundle
bundle: generate ## Write the OLM bundle (VERSION=0.2.0 IMG=... REPLACES=appisolation.v0.1.0 for a release)
	hack/operator-sdk/build
	go run ./hack/bundle -version $(VERSION) -image $(IMG) -replaces "$(REPLACES)"
	bin/operator-sdk bundle validate ./bundle --select-optional suite=operatorframework

# OLM refuses an upgrade to a CustomResourceDefinition that stored objects do not meet.
.PHONY: crds
crds: ## Compare the CustomResourceDefinitions with those of the last release
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null) || { echo 'crds: there is no tag yet, so nothing to compare with'; exit 0; }; \
	for file in $$(git ls-tree --name-only "$$tag" config/crd/bases/); do \
		echo "crds: $$file since $$tag"; \
		go tool -modfile=hack/crdify/go.mod crdify "git://$$tag?path=$$file" "file://$$file"; \
	done

.PHONY: verify
verify: bundle crds ## Fail if anything generated differs from what is committed
	@for module in $(MODULES); do go -C $$module mod tidy; done
	@if [[ -n $$(git status --porcelain) ]]; then \
		echo 'These differ from what is committed after `make generate bundle` and `go mod tidy`:'; \
		git status --porcelain; git --no-pager diff; exit 1; \
	fi

# Where the database is not reachable this is said, and is no failure unless VULNDB=required. GOVULNDB names another one.
.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities that the operator's code reaches
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; \
	go tool -modfile=hack/govulncheck/go.mod govulncheck -db "$${GOVULNDB:-https://vuln.go.dev}" . 2>&1 | tee "$$log" && exit; \
	if grep -q '^govulncheck: fetching vulnerabilities' "$$log" && [[ "$(VULNDB)" != required ]]; then \
		echo 'SKIPPED: NO VULNERABILITY WAS LOOKED FOR, since the database is not reachable from here'; exit; \
	fi; \
	exit 1

.PHONY: build
build: ## Compile the operator to bin/manager
	go build -o bin/manager .

.PHONY: image
image: ## Make the image with ko, for amd64 and arm64, to dist/image.tar; no Docker, no registry
	go -C hack/image build -o $(CURDIR)/bin/image . && bin/image dist

.PHONY: push
push: ## Bring the image of "make image" to the registry that IMG names (REGISTRY_USER, REGISTRY_PASSWORD, or docker login)
	bin/image push dist $(IMG)

INSTALLER ?= dist/install.yaml
.PHONY: build-installer
build-installer: ## Write config/default as the single file dist/install.yaml, with the image IMG
	@mkdir -p $(dir $(INSTALLER))
	@overlay=$$(mktemp -d -p $(CURDIR)/config .installer-XXXXXX) && trap 'rm -rf "$$overlay"' EXIT && cd "$$overlay" && \
		printf 'resources: [../default]\n' > kustomization.yaml && \
		$(TOOL) kustomize edit set image 'appisolation=$(IMG)' && \
		$(TOOL) kustomize build . > '$(abspath $(INSTALLER))'

.PHONY: krew
krew: ## Make a release's archives and krew's manifest in dist
	go run ./hack/krew

# What the tag v$(VERSION) is on; CHANGELOG.md has a section of that version. PLATFORMS are those of the plugin, if not all.
PLATFORMS =
PACK = tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0
.PHONY: release
release: image ## Make all that a release publishes, in dist/release, and check it (VERSION=0.2.0 IMG=... REPLACES=...)
	rm -rf dist/release dist/bundle dist/chart && mkdir -p dist/release
	go run ./hack/release notes $(VERSION) > dist/release/notes.md
	mv dist/image.tar dist/sbom/*.spdx.json dist/release
	@$(MAKE) --no-print-directory build-installer INSTALLER=dist/release/install.yaml
	cp -r config/helm/appisolation dist/chart && sed -i 's|^  repository: appisolation$$|  repository: $(firstword $(subst :v$(VERSION), ,$(IMG)))|' dist/chart/values.yaml
	go tool -modfile=hack/helm/go.mod helm package dist/chart --version $(VERSION) --app-version v$(VERSION) --destination dist/release
	hack/operator-sdk/build
	go run ./hack/bundle -version $(VERSION) -image $(IMG) -replaces "$(REPLACES)" -out dist/bundle
	bin/operator-sdk bundle validate dist/bundle --select-optional suite=operatorframework
	$(PACK) -C dist -czf dist/release/appisolation-bundle-$(VERSION).tgz bundle
	rm -f dist/kubectl-appisolation_* && go run ./hack/krew $(PLATFORMS)
	mv dist/kubectl-appisolation_* dist/appisolation.yaml dist/release
	go run ./hack/release seal dist/release
	go run ./hack/release check dist/release $(VERSION) $(IMG)

# Not part of "make test": to compile what a minor takes is ten minutes on two cores.
.PHONY: compat
compat: $(MINORS:%=compat-%) ## Run the tests that need an API server, and OLM's, on older Kubernetes minors (MINORS="1.34 1.35 1.36")

.PHONY: $(MINORS:%=compat-%)
$(MINORS:%=compat-%): compat-%: controlplane olm
	hack/controlplane/build $(K8S)-$* $*
	KUBEBUILDER_ASSETS=$(K8S)-$* go test -count=1 -timeout 20m ./test/integration
	KUBEBUILDER_ASSETS=$(K8S)-$* go -C test/olm test -count=1 -timeout 20m .

# Of a clone, as the version that a tag names is built in only where nothing is changed.
.PHONY: dryrelease
dryrelease: ## Make a release of the last commit, for this platform, check it and throw it away
	hack/operator-sdk/build
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && git clone -q . "$$work" && cd "$$work" && \
	mkdir bin && ln -s $(CURDIR)/bin/operator-sdk* bin/ && \
	sed -i '0,/^## \[/s/^## \[[^]]*/## [0.99.0/' CHANGELOG.md && \
	git -c user.name=nobody -c user.email=nobody@example.invalid commit -qam 'A dry run' && git tag v0.99.0 && \
	$(MAKE) --no-print-directory crds && \
	$(MAKE) --no-print-directory release VERSION=0.99.0 IMG=registry.example/appisolation:v0.99.0 PLATFORMS=$$(go env GOOS)/$$(go env GOARCH) && \
	ls -l dist/release

.PHONY: controlplane
controlplane: ## Compile etcd, the API server, the controller manager and kubectl to bin/k8s, once
	@hack/controlplane/build $(K8S)

.PHONY: olm
olm: ## Compile the Operator Lifecycle Manager and opm to bin/olm, once
	@hack/olm/build

# What tests and checks compile on their way. Ahead of them, while others wait and at the lowest priority, it costs little
# time: .ci/run does so.
.PHONY: ahead
ahead: ## Compile what "make test lint verify" will take, once
	GOFLAGS="$(GOFLAGS) -tags=remove_all_sd" go build -modfile=hack/promtool/go.mod -o /dev/null tool
	go build -modfile=hack/helm/go.mod -o /dev/null tool
	for arch in amd64 arm64; do GOOS=linux GOARCH=$$arch go build -tags no_svg -o /dev/null .; done # the image's
	go -C test/argocd test -c -o /dev/null .
	hack/operator-sdk/build
	hack/controlplane/build $(K8S) node
	for tools in image tools govulncheck actionlint; do go build -modfile=hack/$$tools/go.mod -o /dev/null tool; done

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf bin dist
