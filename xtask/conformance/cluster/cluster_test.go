// Package cluster runs the suite of ClusterNetworkPolicy.
package cluster

import (
	"testing"

	"ringfence.example/conformance/kit"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

func TestClusterNetworkPolicy(t *testing.T) {
	kit.Run(t, kit.Suite{
		Version:  "v0.2.0",
		Install:  v1alpha2.Install,
		Profiles: []suite.ConformanceProfileName{suite.CNPConformanceProfileName},
		Tests:    tests.ConformanceTests,
	})
}
