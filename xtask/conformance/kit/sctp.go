package kit

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Who speaks SCTP in the pods of the suite.
const (
	// Kernel: the suite's own program, by sockets of the kernel.
	kernel = "kernel"
	// Stand-in: our program, over raw sockets.
	standIn = "stand-in"
	// Nobody: the servers are left away.
	nobody = "nobody"
)

// Served begins the names of the variables by which a container is told which ports to serve.
const served = "SERVE_SCTP_PORT_"

// speaker changes, on their way to the API, the stateful sets of the suite where the kernel of the nodes has no SCTP:
// their servers of it would end at once, and no pod would ever be ready.
type speaker struct {
	client.Client
	who string
}

// Create creates an object.
func (s speaker) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	if err := s.change(object); err != nil {
		return err
	}
	return s.Client.Create(ctx, object, options...)
}

// Update updates an object.
func (s speaker) Update(ctx context.Context, object client.Object, options ...client.UpdateOption) error {
	if err := s.change(object); err != nil {
		return err
	}
	return s.Client.Update(ctx, object, options...)
}

func (s speaker) change(object client.Object) error {
	raw, ok := object.(*unstructured.Unstructured)
	if !ok || raw.GetKind() != "StatefulSet" || s.who == kernel {
		return nil
	}
	var set appsv1.StatefulSet
	convert := runtime.DefaultUnstructuredConverter
	if err := convert.FromUnstructured(raw.Object, &set); err != nil {
		return err
	}
	pod := &set.Spec.Template.Spec
	kept := pod.Containers[:0]
	for _, container := range pod.Containers {
		if servesSCTP(&container) {
			if s.who == nobody {
				continue
			}
			container.Command = []string{"/bin/sh", "-c", awaitStandIn}
		}
		kept = append(kept, container)
	}
	pod.Containers = kept
	changed, err := convert.ToUnstructured(&set)
	if err == nil {
		raw.Object = changed
	}
	return err
}

func servesSCTP(container *corev1.Container) bool {
	for _, variable := range container.Env {
		if strings.HasPrefix(variable.Name, served) {
			return true
		}
	}
	return false
}
