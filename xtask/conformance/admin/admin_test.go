// Package admin runs the suite of AdminNetworkPolicy and BaselineAdminNetworkPolicy.
package admin

import (
	"testing"

	"ringfence.example/conformance/kit"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

func TestAdminNetworkPolicy(t *testing.T) {
	kit.Run(t, kit.Suite{
		Version: "v0.1.7",
		Install: v1alpha1.Install,
		Profiles: []suite.ConformanceProfileName{
			suite.ANPConformanceProfileName,
			suite.BANPConformanceProfileName,
		},
		Tests: tests.ConformanceTests,
	})
}
