package kit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	consts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	client "k8s.io/client-go/tools/remotecommand"
	server "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// bridge makes an API whose exec speaks WebSocket only usable by the suites, which stream over SPDY only: it serves, on
// a loopback address, the same API with an exec that speaks SPDY. The answer is how to reach that, and how to end it.
func bridge(config *rest.Config) (*rest.Config, func(), error) {
	target, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, nil, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	rest := &rest.Config{Host: "http://" + listener.Addr().String()}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/exec") {
			proxy.ServeHTTP(w, r)
			return
		}
		query := r.URL.Query()
		streams := &server.Options{
			Stdin: query.Get("stdin") == "true", Stdout: query.Get("stdout") == "true", Stderr: query.Get("stderr") == "true",
		}
		passed := passer{config: config, url: target.ResolveReference(&url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery})}
		server.ServeExec(w, r, passed, "", "", "", nil, streams, time.Minute, time.Minute, consts.SupportedStreamingProtocols)
	})
	serving := &http.Server{Handler: handler}
	go serving.Serve(listener)
	return rest, func() { serving.Close() }, nil
}

// passer runs a command by asking the API behind the bridge.
type passer struct {
	config *rest.Config
	url    *url.URL
}

// ExecInContainer runs the command that the URL names.
func (p passer) ExecInContainer(
	ctx context.Context, _ string, _ types.UID, _ string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool,
	_ <-chan client.TerminalSize, _ time.Duration,
) error {
	executor, failed := client.NewWebSocketExecutor(p.config, "GET", p.url.String())
	if failed != nil {
		return failed
	}
	streams := client.StreamOptions{Stdin: in}
	// A nil pointer within an interface would not be nil.
	if out != nil {
		streams.Stdout = out
	}
	if err != nil {
		streams.Stderr = err
	}
	failed = executor.StreamWithContext(ctx, streams)
	var code interface{ ExitStatus() int }
	if errors.As(failed, &code) {
		return utilexec.CodeExitError{Err: failed, Code: code.ExitStatus()}
	}
	return failed
}
