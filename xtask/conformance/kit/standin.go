package kit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

const (
	// What a server of SCTP does until its program is there.
	awaitStandIn = "until [ -e /agnhost.original ] && [ -x /agnhost ]; do sleep 0.1; done; exec /agnhost porter"
	// How the stand-in is put where the suite looks for agnhost.
	putStandIn = "cat >/agnhost.new && chmod 755 /agnhost.new && mv /agnhost /agnhost.original && mv /agnhost.new /agnhost"
	// Beginning of the names of the suite's namespaces.
	namespaces = "network-policy-conformance-"
	// How long a server may take to answer the first time, and what an earlier run left to go.
	patience = 2 * time.Minute
)

// installer puts the stand-in into the containers that speak SCTP.
type installer struct {
	config  *rest.Config
	set     kubernetes.Interface
	program []byte
}

// install puts it into all of them and comes back when every server answers.
func (i installer) install(ctx context.Context) error {
	pods, err := i.set.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if !strings.HasPrefix(pod.Namespace, namespaces) {
			continue
		}
		if err := i.equip(ctx, &pod); err != nil {
			return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func (i installer) equip(ctx context.Context, pod *corev1.Pod) error {
	var client string
	var ports []string
	for _, container := range pod.Spec.Containers {
		if strings.HasSuffix(container.Name, "-client") {
			client = container.Name
		} else if !servesSCTP(&container) {
			continue
		}
		for _, variable := range container.Env {
			if port, ok := strings.CutPrefix(variable.Name, served); ok {
				ports = append(ports, port)
			}
		}
		if err := i.execute(ctx, pod, container.Name, bytes.NewReader(i.program), "/bin/sh", "-c", putStandIn); err != nil {
			return err
		}
	}
	end := time.Now().Add(patience)
	for _, port := range ports {
		target := net.JoinHostPort(pod.Status.PodIP, port)
		for {
			err := i.execute(ctx, pod, client, nil, "/agnhost", "connect", "--timeout=1s", "--protocol=sctp", target)
			if err == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("its server of SCTP at %s does not answer: %w", target, err)
			}
		}
	}
	return nil
}

// execute runs a command in a container.
func (i installer) execute(ctx context.Context, pod *corev1.Pod, container string, in io.Reader, command ...string) error {
	request := i.set.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec")
	request = request.VersionedParams(&corev1.PodExecOptions{
		Container: container, Command: command, Stdin: in != nil, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(i.config, "POST", request.URL())
	if err != nil {
		return err
	}
	var said, complained bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &said, Stderr: &complained})
	if err != nil {
		return fmt.Errorf("%s: %w: %s%s", command[0], err, said.String(), strings.TrimSpace(complained.String()))
	}
	return nil
}

// read reads the stand-in.
func (i *installer) read(path string) error {
	program, err := os.ReadFile(path)
	i.program = program
	return err
}
