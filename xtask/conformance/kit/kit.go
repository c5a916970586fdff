// Package kit runs a conformance suite of sigs.k8s.io/network-policy-api and writes its report. It compiles against every
// version of the suite that has profiles; which one it is, the module that calls it says.
package kit

import (
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	confv1a1 "sigs.k8s.io/network-policy-api/conformance/apis/v1alpha1"
	timeouts "sigs.k8s.io/network-policy-api/conformance/utils/config"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"
)

var (
	kubeconfig = flag.String("cluster", "", "kubeconfig of the cluster to try")
	report     = flag.String("report", "", "where to write the report")
	version    = flag.String("implementation-version", "", "version of Ringfence")
	project    = flag.String("implementation-url", "", "where Ringfence is to be found")
	features   = flag.String("features", "", "experimental features to try besides the standard ones; separated by commas")
	skip       = flag.String("leave-out", "", "tests to leave out, by name; separated by commas")
	sctp       = flag.String("sctp", kernel, "who speaks SCTP in the pods: kernel, stand-in or nobody")
	websocket  = flag.Bool("websocket", false, "the API runs commands over WebSocket only")
	program    = flag.String("stand-in", "", "the program that stands in for agnhost where it speaks SCTP")
)

// Suite is one version of the suite.
type Suite struct {
	// Version of the module it comes from.
	Version string
	// Install makes the kinds of that version known.
	Install func(*runtime.Scheme) error
	// Profiles to report on.
	Profiles []suite.ConformanceProfileName
	// Tests of that version.
	Tests []suite.ConformanceTest
}

// Run runs the suite against the cluster that the flags name, and writes the report that they ask for.
func Run(t *testing.T, s Suite) {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	must(t, "reading "+*kubeconfig, err)
	if *websocket {
		bridged, end, err := bridge(config)
		must(t, "bridging to "+config.Host, err)
		t.Cleanup(end)
		config = bridged
	}
	api, err := client.New(config, client.Options{})
	must(t, "making a client", err)
	set, err := kubernetes.NewForConfig(config)
	must(t, "making a client", err)
	must(t, "installing the kinds", s.Install(api.Scheme()))

	run, err := suite.NewConformanceProfileTestSuite(suite.ConformanceProfileOptions{
		Options: suite.Options{
			Client:               speaker{Client: api, who: *sctp},
			ClientSet:            set,
			KubeConfig:           *config,
			CleanupBaseResources: true,
			SupportedFeatures:    supported(),
			SkipTests:            list(*skip),
			// Some tests share one such time among all they do, six connections that must time out included.
			TimeoutConfig: timeouts.TimeoutConfig{GetTimeout: patience},
		},
		Implementation: confv1a1.Implementation{
			Organization:          "Ringfence",
			Project:               "Ringfence",
			URL:                   *project,
			Version:               *version,
			Contact:               []string{*project},
			AdditionalInformation: "docs/conformance.md of that version",
		},
		ConformanceProfiles: sets.New(s.Profiles...),
	})
	must(t, "choosing tests", err)
	must(t, "waiting for the namespaces of an earlier run to go", settle(context.Background(), set))
	run.Setup(t)
	if *sctp == standIn {
		installer := installer{config: config, set: set}
		must(t, "reading the stand-in", installer.read(*program))
		must(t, "putting the stand-in into the pods", installer.install(context.Background()))
	}
	must(t, "running the suite", run.Run(t, s.Tests))
	must(t, "writing the report", write(run, s.Version))
}

// settle waits until nothing is left that another run of a suite is still deleting.
func settle(ctx context.Context, set kubernetes.Interface) error {
	return wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		found, err := set.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, namespace := range found.Items {
			if strings.HasPrefix(namespace.Name, namespaces) && namespace.DeletionTimestamp != nil {
				return false, nil
			}
		}
		return true, nil
	})
}

func supported() sets.Set[suite.SupportedFeature] {
	chosen := sets.New[suite.SupportedFeature]()
	for _, name := range list(*features) {
		chosen.Insert(suite.SupportedFeature(name))
	}
	return chosen
}

// write writes the report. The suite names a fixed version of the API in it; the one that was run is put there instead.
func write(run *suite.ConformanceProfileTestSuite, version string) error {
	made, err := run.Report()
	if err != nil || *report == "" {
		return err
	}
	made.NetworkPolicyV2APIVersion = version
	text, err := yaml.Marshal(made)
	if err != nil {
		return err
	}
	return os.WriteFile(*report, text, 0o644)
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

func must(t *testing.T, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}
