{{/* What selects the agents' pods. It can never change. */}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What every object carries. */}}
{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/component: service-proxy
app.kubernetes.io/part-of: weir
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "weir.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "v%s" .Chart.AppVersion) }}
{{- end }}

{{/* Flags by their names → variables, as the ConfigMap holds them. */}}
{{- define "weir.environment" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if and .Values.podMonitor.enabled (not (hasKey $settings "metrics-bind-address")) -}}
{{- $_ := set $settings "metrics-bind-address" "0.0.0.0:10249" -}}
{{- end -}}
{{- if .Values.apiServer -}}
{{- $_ := set $settings "api-server" .Values.apiServer -}}
{{- end -}}
{{- range $flag, $value := $settings }}
WEIR_{{ $flag | replace "-" "_" | upper }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* Where `/healthz` answers, as an httpGet; nothing where it is switched off. */}}
{{- define "weir.probe" -}}
{{- $address := dig "healthz-bind-address" "0.0.0.0:10256" .root.Values.settings -}}
{{- if $address -}}
{{- $port := regexFind ":[0-9]+$" (regexFind "^(\\[.*\\]|[0-9.]+):[0-9]+$" $address) | trimPrefix ":" | default "10256" -}}
{{- $host := ternary (regexReplaceAll ":[0-9]+$" $address "") $address (regexMatch "^(\\[.*\\]|[0-9.]+):[0-9]+$" $address) | trimAll "[]" -}}
httpGet:
  {{- if not (has $host (list "0.0.0.0" "::")) }}
  host: {{ $host | quote }}
  {{- end }}
  path: {{ .path }}
  port: {{ $port }}
{{- end -}}
{{- end }}

{{/* The port of `/metrics`, for who reads it from outside. */}}
{{- define "weir.metricsPort" -}}
{{- $address := dig "metrics-bind-address" "0.0.0.0:10249" .Values.settings -}}
{{- regexFind ":[0-9]+$" (regexFind "^(\\[.*\\]|[0-9.]+):[0-9]+$" $address) | trimPrefix ":" | default "10249" -}}
{{- end }}

{{/*
All that an agent may do, and each of these is needed:
BPF and PERFMON: to load programs that read packets and sockets, and to write tables.
NET_ADMIN: to attach programs to interfaces and cgroups, and to close sockets whose backend is gone.
NET_BROADCAST: to hear of addresses and interfaces in pods' network namespaces without entering them.
SYS_RESOURCE: before Linux 5.11, to lock memory for the tables.
*/}}
{{- define "weir.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
  add: [BPF, NET_ADMIN, NET_BROADCAST, PERFMON, SYS_RESOURCE]
{{- with .Values.seccompProfile }}
seccompProfile: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Where the host's files are in the containers. The BPF file system is not where the host has it:
AppArmor's default profile for containers forbids writing below /sys/fs/bpf. A container's own
/sys/fs/cgroup is a part of the host's tree.
*/}}
{{- define "weir.paths" -}}
- {name: WEIR_BPFFS, value: /host/bpf}
- {name: WEIR_CGROUP_ROOT, value: /host/cgroup}
- {name: WEIR_NETNS_DIR, value: /host/netns}
- {name: WEIR_CNI_RESULTS_DIR, value: /host/cni/results}
- {name: WEIR_RUN_DIR, value: /run/weir}
- {name: WEIR_KUBELET_KUBECONFIG, value: /run/weir/kubelet.conf}
- name: WEIR_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}

{{/* HostToContainer: what the host mounts there later is seen, too. */}}
{{- define "weir.mounts" -}}
- {name: bpffs, mountPath: /host/bpf, mountPropagation: HostToContainer}
- {name: cgroup, mountPath: /host/cgroup, readOnly: true}
- {name: netns, mountPath: /host/netns, readOnly: true, mountPropagation: HostToContainer}
- {name: cni, mountPath: /host/cni, readOnly: true}
- {name: run, mountPath: /run/weir}
{{- end }}
