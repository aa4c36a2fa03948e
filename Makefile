# Every way to build, try and check NexusGrid. Recipes install what they miss.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build demo test verify sim soak bench bench-bucket bench-compare conformance pjdfstest fix

ARGS ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## the agent, `nexusgrid`
	@deploy/build/run.sh build

demo: ## a whole grid of seven nodes on this machine, with a tour (ARGS=--once ends after it)
	@deploy/build/run.sh demo $(ARGS)

test: ## everything that must hold before a change lands
	@deploy/build/run.sh test

verify: ## formatting, lints, licences, documentation: reads only
	@deploy/build/run.sh verify

sim: ## many seeds of the simulation (ARGS="number first", default 10000 from 1)
	@deploy/build/run.sh sim $(ARGS)

soak: ## long fault runs with real processes (ARGS=rounds, default 200)
	@deploy/build/run.sh soak $(ARGS)

bench: ## throughput and latency beside the machine's own limits, a bucket of many objects (ARGS="--only bucket --objects 1000000")
	@deploy/build/run.sh bench $(ARGS)

bench-bucket: ## one large bucket: what was promised of it beside what is found (OBJECTS=1000000)
	@deploy/build/run.sh bench-bucket $(OBJECTS)

bench-compare: ## CPU per operation now and at another commit, in turn (OLD=commit, ARGS="rounds seconds")
	@deploy/build/run.sh bench-compare $(OLD) $(ARGS)

conformance: ## the Ceph project's S3 suite against a grid (ARGS=checkout of ceph/s3-tests)
	@deploy/build/run.sh conformance $(ARGS)

pjdfstest: ## the C suite of pjdfstest on a mount (ARGS=checkout of pjd/pjdfstest); needs root
	@deploy/build/run.sh pjdfstest $(ARGS)

fix: ## formats and applies what clippy can mend: writes
	@deploy/build/run.sh fix
